// --- drawing, and what the reader does ---

let asked = false, pointer = null, dragging = false;
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    layout = place2d(fabric.clientWidth, fabric.clientHeight);
    hovered = pointer ? peAt(pointer) : -1;
    drawFabric(); drawOverview(); drawTimeline(); drawScale(); drawWords();
    if (pointer && !dragging) tip(pointer, hovered < 0 ? "" : [where(hovered), ...describe(hovered)].join("\n"));
    $("slider").value = Math.round((now - from) / Math.max(1, to - from) * 1000);
    document.body.dataset.drawn = now;
    document.body.dataset.range = `${from} ${to}`;
    remember();
  });
}
function seek(t) { now = Math.max(0, Math.min(CYCLES - 1, Math.floor(t))); draw(); }
function zoom(a, b) {
  const width = Math.min(CYCLES, Math.max(20, b - a));
  from = Math.round(Math.max(0, Math.min(CYCLES - width, a))); to = Math.min(CYCLES, Math.round(from + width));
  if (now < from || now >= to) now = Math.floor(from);
  draw();
}
// Ranges that were selected from, for Escape.
const ranges = [];
function select(a, b) { ranges.push([from, to]); zoom(a, b); }

// The address says what is shown, so that a page that is loaded again, or sent with its address, opens there.
let later = 0;
function remember() {
  clearTimeout(later);
  later = setTimeout(() => {
    const words = new URLSearchParams({ cycle: now, pe: `${chosen % W},${chosen / W | 0}`, from, to });
    if (color >= 0) words.set("color", color);
    if ($("view").value !== "both") words.set("view", $("view").value);
    try { history.replaceState(null, "", "#" + words.toString().replace("%2C", ",")); } catch { /* a sandboxed frame */ }
  }, 400);
}

let before = 0, clock = 0;
function tick(time) {
  if (!playing) return;
  // The whole range in 12 seconds.
  clock += (before ? (time - before) / 1000 : 0) * (to - from) / 12 * Number($("speed").value);
  before = time;
  if (clock >= to) { play(false); seek(to - 1); return; }
  if (Math.floor(clock) !== now) seek(clock);
  requestAnimationFrame(tick);
}
function play(on) {
  playing = on; before = 0; clock = now >= to - Math.max(frame(), DATA.linkBin) || now < from ? from : now;
  $("play").textContent = on ? "Pause" : "Play";
  if (on) requestAnimationFrame(tick);
}
// What is sought while the run plays is where it goes on.
function jump(t) { seek(t); clock = now; }

const peAt = (event) => {
  const box = fabric.getBoundingClientRect(), { size, left, top } = layout, inX = event.clientX - box.left, inY = event.clientY - box.top;
  const x = Math.floor((inX - left) / size), y = Math.floor((inY - top) / size);
  return x >= 0 && y >= 0 && x < W && y < H && inX >= AXIS - 3 && inY >= TOP - 3 ? y * W + x : -1;
};
const timeAt = (event, canvas, a, b) => {
  const box = canvas.getBoundingClientRect(), part = (event.clientX - box.left - LEFT) / (box.width - LEFT);
  return a + Math.max(0, Math.min(1, part)) * (b - a);
};
// A press, its moves and its end; a press that hardly moves is a click.
function onDrag(canvas, { move, end, click }) {
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    canvas.setPointerCapture(event.pointerId);
    const start = { x: event.clientX, y: event.clientY, event, from, to, eye: { ...eye } }, ends = new AbortController();
    let moved = false;
    tip(null, "");
    canvas.addEventListener("pointermove", (next) => {
      dragging = moved ||= Math.hypot(next.clientX - start.x, next.clientY - start.y) >= 4;
      if (moved) move(next, start);
    }, { signal: ends.signal });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (next) => {
      ends.abort();
      dragging = false;
      if (moved) end?.(next, kind === "pointercancel");
      else if (kind === "pointerup") click(next);
    }, { signal: ends.signal });
  });
}

// The fabric: choose, move, zoom.
function approach(factor, x, y) {
  // Wheels turn more often than frames are drawn.
  const { size, width, height, all } = layout = place2d(fabric.clientWidth, fabric.clientHeight);
  const near = Math.max(1, Math.min(Math.max(1, LARGEST / all), eye.near * factor)), kept = size / sizeOf(all * near);
  // What is under the pointer stays there.
  if (x !== undefined) {
    eye.x += (x - AXIS - width / 2) / size * (1 - kept); eye.y += (y - TOP - height / 2) / size * (1 - kept);
  }
  eye.near = near;
  fabric.style.touchAction = near > 1 ? "none" : "pan-y";
  draw();
}
function wholeFabric() { approach(0); }
fabric.onmousemove = (event) => { pointer = event; draw(); };
fabric.onmouseleave = () => { pointer = null; tip(null, ""); draw(); };
onDrag(fabric, {
  move: (event, start) => {
    eye.x = start.eye.x - (event.clientX - start.x) / layout.size; eye.y = start.eye.y - (event.clientY - start.y) / layout.size;
    draw();
  },
  click: (event) => { const p = peAt(event); if (p >= 0) { chosen = p; draw(); } },
});
fabric.ondblclick = wholeFabric;
fabric.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = fabric.getBoundingClientRect();
  approach(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
fabric.onkeydown = (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  const x = chosen % W + move[0], y = (chosen / W | 0) + move[1];
  if (x < 0 || y < 0 || x >= W || y >= H) return;
  chosen = y * W + x;
  if (x < layout.x0 + 1 || x >= layout.x1 - 1) eye.x = x + .5;
  if (y < layout.y0 + 1 || y >= layout.y1 - 1) eye.y = y + .5;
  draw();
};
$("closer").onclick = () => approach(1.6);
$("wider").onclick = () => approach(1 / 1.6);
$("fit").onclick = wholeFabric;

// The strip and the timeline: a drag selects a range; with shift, or the middle button, it moves the timeline.
for (const [canvas, range] of [[overview, () => [0, CYCLES]], [timeline, () => [from, to]]]) {
  onDrag(canvas, {
    move: (event, start) => {
      const [a, b] = canvas === overview ? range() : [start.from, start.to];
      if (start.event.shiftKey || start.event.button === 1) {
        const cycles = (event.clientX - start.x) / (canvas.clientWidth - LEFT) * (b - a) * (canvas === overview ? -1 : 1);
        zoom(start.from - cycles, start.to - cycles);
        return;
      }
      if (start.ended) return;
      const ends = [timeAt(start.event, canvas, a, b), timeAt(event, canvas, a, b)].sort((one, other) => one - other);
      brush = { canvas, a: Math.floor(ends[0]), b: Math.ceil(ends[1]), stop: () => { start.ended = true; } };
      draw();
    },
    end: (_, broken) => {
      if (brush && !broken) select(brush.a, brush.b);
      brush = null;
      draw();
    },
    click: (event) => {
      const t = timeAt(event, canvas, ...range()), half = (to - from) / 2;
      if (canvas === overview && to - from < CYCLES && (t < from || t >= to)) zoom(t - half, t + half);
      jump(t);
    },
  });
  canvas.onmouseleave = () => tip(null, "");
}
overview.onmousemove = (event) => {
  if (event.buttons) return;
  const t = timeAt(event, overview, 0, CYCLES), k = Math.min(glance.n - 1, Math.floor(t / CYCLES * glance.n)) * GROUPS.length;
  const lines = GROUPS.map(([, , words], i) => [words, glance.bins[k + i]]).filter(([, part]) => part > 0);
  const launches = DATA.launches.filter(([, start, cycles]) => t >= start && t < start + cycles).slice(-2)
    .map(([name, start, cycles, pes]) => `${name}, launched at ${comma(start)}: ${comma(cycles)} cycles on ${comma(pes)} PEs`);
  tip(event, [`cycle ${comma(t)}`, ...launches, ...lines.map(([words, part]) => `${percent(part)} of PEs: ${words}`)].join("\n"));
};
timeline.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const cycles = (event.deltaX || event.deltaY) / 800 * (to - from);
    zoom(from + cycles, to + cycles);
    return;
  }
  const t = timeAt(event, timeline, from, to), factor = Math.exp(event.deltaY / 400);
  zoom(t - (t - from) * factor, t + (to - t) * factor);
}, { passive: false });
timeline.onmousemove = (event) => {
  if (event.buttons) return;
  const box = timeline.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  const found = boxes.filter(([x0, x1, y0, y1]) => x >= x0 - 1 && x <= x1 + 1 && y >= y0 && y < y1);
  tip(event, found.slice(-2).map(([, , , , i]) => {
    const [, words, place] = DATA.names[span.name[i]];
    return `${words}${place ? `\n${place}` : ""}\ncycle ${comma(span.start[i])}, ${comma(span.length[i])} cycles`;
  }).join("\n"));
};
$("play").onclick = () => play(!playing);
$("slider").oninput = (event) => jump(from + event.target.value / 1000 * (to - from));
$("all").onclick = () => select(0, CYCLES);
$("view").onchange = draw;
$("color").onchange = (event) => { color = Number(event.target.value); draw(); };
$("help").onclick = () => $("keys").showModal();
const KEYS = {
  ",": () => jump(now - frame()), ".": () => jump(now + frame()), Home: () => jump(from), End: () => jump(to - frame()),
  "+": () => approach(1.6), "=": () => approach(1.6), "-": () => approach(1 / 1.6), 0: wholeFabric, "?": () => $("keys").showModal(),
  Escape: () => {
    if (brush) { brush.stop(); brush = null; draw(); } else if (ranges.length) zoom(...ranges.pop());
  },
};
addEventListener("keydown", (event) => {
  if ($("keys").open || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
  if (event.key === " " && !event.target.closest("button")) { event.preventDefault(); play(!playing); }
  if (KEYS[event.key] && !(event.target.closest("input") && event.key.length > 1 && event.key !== "Escape")) KEYS[event.key]();
});
