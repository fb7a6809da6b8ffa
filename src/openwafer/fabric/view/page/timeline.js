// --- the run at a glance: how many PEs are in which sort of state ---

const LEFT = 96;
const GROUPS = [["task", "busy", "in a task"], ["micro", "micro", "only microthreads"], ["wait", "wait", "wait for a wavelet"],
  ["send", "send", "wait for room"], ["other", "other", "wait for else"], ["microwait", "microwait", "microthreads wait"]];
const groupOf = DATA.states.map(([kind]) => GROUPS.findIndex(([name]) => name === kind));
const usedPes = placed.reduce((sum, p) => sum + (p !== NOTHING), 0) || 1;
let brush = null, glance = null;
function overviewData(n) {
  const bins = new Float64Array(n * GROUPS.length), width = CYCLES / n;
  for (let i = 0; i < seg.start.length; i++) {
    const group = groupOf[seg.state[i]], end = seg.start[i] + seg.length[i];
    if (group < 0) continue;
    for (let k = Math.floor(seg.start[i] / width); k < n && k * width < end; k++) {
      const part = Math.min(end, (k + 1) * width) - Math.max(seg.start[i], k * width);
      bins[k * GROUPS.length + group] += part * seg.share[i] / 255 / width / usedPes;
    }
  }
  return bins;
}
const overview = $("overview").firstElementChild, timeline = $("timeline").firstElementChild;
// Marks of cycles below, lines above them; gives the place of a cycle.
function drawAxis(g, a, b, w, high) {
  const at = (t) => LEFT + (t - a) / (b - a) * (w - LEFT), mark = Math.max(1, roundStep((b - a) / Math.max(2, (w - LEFT) / 110)));
  g.textAlign = "center";
  for (let t = Math.ceil(a / mark) * mark; t < b; t += mark) {
    g.fillStyle = theme.line; g.fillRect(at(t), 0, 1, high);
    const half = g.measureText(comma(t)).width / 2;
    g.fillStyle = theme.soft;
    if (at(t) + half < w && at(t) - half > LEFT - 8) g.fillText(comma(t), at(t), high + 12);
  }
  g.textAlign = "left"; g.fillText("cycle", 2, high + 12);
  return at;
}
function drawBrush(g, at, high, w, canvas) {
  if (!brush) return;
  const x0 = Math.max(LEFT, at(brush.a)), x1 = Math.min(w, at(brush.b)), words = `${comma(brush.b - brush.a)} cycles`;
  g.fillStyle = theme.accent; g.globalAlpha = .22; g.fillRect(x0, 0, x1 - x0, high); g.globalAlpha = 1;
  g.fillRect(x0, 0, 1, high); g.fillRect(x1, 0, 1, high);
  if (brush.canvas !== canvas) return;
  const width = g.measureText(words).width + 10, x = Math.max(LEFT, Math.min(w - width, (x0 + x1 - width) / 2));
  g.fillRect(x, high - 18, width, 16);
  g.fillStyle = inkOn(rgb(theme.accent)); g.fillText(words, x + 5, high - 6);
}
// Functions that the host launched, from the first PE's begin to the last one's end.
const LAUNCHES = DATA.launches.length ? 15 : 0;
function drawLaunches(g, at) {
  DATA.launches.forEach(([name, start, cycles]) => {
    const x = at(start), width = Math.max(1.5, at(start + cycles) - x - 1);
    g.fillStyle = theme.accent; g.globalAlpha = .75; g.fillRect(x, 0, width, LAUNCHES - 3); g.globalAlpha = 1;
    if (width < 24) return;
    g.save(); g.beginPath(); g.rect(x, 0, width - 3, LAUNCHES); g.clip();
    g.fillStyle = inkOn(mix(rgb(theme.panel), rgb(theme.accent), .75)); g.fillText(name, x + 4, 10); g.restore();
  });
}
function drawOverview() {
  const [g, w, h] = fitted(overview), high = h - 16, strip = high - LAUNCHES, wide = w - LEFT, n = Math.max(1, Math.min(Math.floor(wide), 900, CYCLES));
  if (!glance || glance.n !== n) glance = { n, bins: overviewData(n) };
  g.fillStyle = theme.idle; g.fillRect(LEFT, LAUNCHES, wide, strip);
  for (let k = 0; k < n; k++) {
    let y = high;
    GROUPS.forEach(([, name], i) => {
      const part = strip * glance.bins[k * GROUPS.length + i];
      if (!part) return;
      g.fillStyle = theme[name];
      g.fillRect(LEFT + k * wide / n, y - part, wide / n + .5, part); y -= part;
    });
  }
  g.textAlign = "left"; g.fillStyle = theme.soft; if (LAUNCHES) g.fillText("launches", 2, 10);
  g.fillText("share of PEs", 2, LAUNCHES + strip / 2 + 4);
  const at = drawAxis(g, 0, CYCLES, w, high);
  drawLaunches(g, at);
  g.fillStyle = theme.panel; g.globalAlpha = .6;
  g.fillRect(LEFT, 0, at(from) - LEFT, high); g.fillRect(at(to), 0, w - at(to), high); g.globalAlpha = 1;
  g.strokeStyle = theme.accent; g.lineWidth = 1;
  if (to - from < CYCLES) g.strokeRect(at(from) + .5, .5, Math.max(1, at(to) - at(from) - 1), high - 1);
  g.fillStyle = theme.ink; g.fillRect(Math.min(w - 1.5, at(now)), 0, 1.5, high);
  drawBrush(g, at, high, w, overview);
}

// --- the chosen PE ---

// As high as the PE with most microthreads needs, so that it stays when another one is chosen.
const threadsOf = (p) => {
  const found = [], end = spanAt[p + 1];
  for (let i = spanAt[p]; i < end; i = above(span.thread, span.thread[i], i, end)) if (span.thread[i] < MAIN) found.push(span.thread[i]);
  return found;
};
let mostRows = 2;
for (let p = 0; p < PES; p++) mostRows = Math.max(mostRows, 2 + threadsOf(p).length);
if (DATA.spansCut) mostRows++;
$("timeline").style.height = `${Math.min(24 * mostRows, 200) + 20}px`;
let boxes = [];
function drawTimeline() {
  const [g, w, h] = fitted(timeline), high = h - 16, micro = threadsOf(chosen);
  const rows = [["tasks", MAIN, TASK], ["operations", MAIN, OPERATION], ...micro.map((t) => ["microthread " + t, t, OPERATION])];
  const tall = Math.min(24, high / (rows.length + (DATA.spansCut ? 1 : 0)));
  const at = drawAxis(g, from, to, w, high);
  boxes = [];
  if (DATA.spansCut) {  // short spans are missing: the states tell what they were
    rows.unshift(["states", -1, 0]);
    let drawn = -1;
    for (let i = Math.max(segAt[chosen], above(seg.start, from, segAt[chosen], segAt[chosen + 1]) - 1);
      i < segAt[chosen + 1] && seg.start[i] < to; i++) {
      const x0 = Math.max(LEFT, at(seg.start[i])), x1 = Math.min(w, at(seg.start[i] + seg.length[i]));
      if (x1 <= LEFT || x1 - drawn < .5) continue;
      drawn = x1;
      g.fillStyle = text(mix(rgb(theme.idle), paletteRgb[seg.state[i]], .3 + .7 * seg.share[i] / 255));
      g.fillRect(x0, 3, Math.max(.8, x1 - x0), tall - 7);
    }
  }
  rows.forEach(([label, thread, sort], r) => {
    const y = r * tall;
    g.fillStyle = theme.soft; g.fillText(label, 2, y + tall / 2 + 4);
    g.fillStyle = theme.line; g.fillRect(LEFT, y + tall - 1, w - LEFT, 1);
    if (thread >= 0) drawSpans(g, at, w, y, tall, thread, sort);
  });
  if (spanAt[chosen] === spanAt[chosen + 1]) { g.fillStyle = theme.soft; g.fillText("nothing recorded of this PE", LEFT + 8, tall - 7); }
  g.fillStyle = theme.accent; g.globalAlpha = .18;
  g.fillRect(at(now), 0, Math.max(1, at(now + frame()) - at(now)), high); g.globalAlpha = 1;
  if (now >= from && now < to) g.fillRect(at(now), 0, 1, high);
  drawBrush(g, at, high, w, timeline);
}
function drawSpans(g, at, w, y, tall, thread, sort) {
  const drawn = [-1, -1], [first, last] = spansOf(chosen, thread, from, to);
  for (let i = first; i < last; i++) {
    const kind = DATA.names[span.name[i]][0], wait = kind === WAIT;
    if ((sort === TASK) !== (kind < OPERATION)) continue;
    const x0 = Math.max(LEFT, at(span.start[i])), x1 = Math.min(w, at(span.start[i] + span.length[i]));
    // Of what is less than half a pixel behind the last mark nothing would be seen.
    if (x1 <= LEFT || x1 - drawn[+wait] < .5) continue;
    drawn[+wait] = x1;
    const inset = wait ? tall * .5 : 3, fill = spanColor(span.name[i]);
    g.fillStyle = fill;
    g.fillRect(x0, y + inset, Math.max(.8, x1 - x0 - (x1 - x0 > 4 ? 1 : 0)), tall - inset - 4);
    boxes.push([x0, x1, y, y + tall, i]);
    if (!wait && x1 - x0 > 34) {
      g.save(); g.beginPath(); g.rect(x0, y, x1 - x0 - 3, tall); g.clip();
      g.fillStyle = inkOn(rgb(fill)); g.fillText(DATA.names[span.name[i]][1], x0 + 4, y + tall / 2 + 3); g.restore();
    }
  }
}
