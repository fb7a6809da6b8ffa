// --- words ---

const short = (text) => new Set(DATA.programs).size > 1 ? text : text.replace(/ \([^()]*\)$/, "");
// What a PE does in the frame: its state, its operations and waits, its links, its wavelets.
function describe(p) {
  if (placed[p] === NOTHING && !load.subarray(p * LINKS, p * LINKS + LINKS).some(Boolean)) return ["only routes"];
  const a = now, b = frameEnd(), lines = [];
  if (placed[p] === NOTHING) lines.push("only routes");
  else lines.push(DATA.states[best[p]][1] + (best[p] && share[p] < .995 ? `; busy or waiting ${percent(share[p])} of the time` : ""));
  // One line for each thread and source line; a wait tells its operation too.
  const shown = new Map();
  for (const thread of [MAIN, 0, 1, 2, 3, 4, 5, 6, 7]) {
    const [first, last] = spansOf(p, thread, a, b);
    for (let i = first; i < last && shown.size < 6; i++) {
      const [kind, words, place] = DATA.names[span.name[i]], key = `${thread} ${place}`;
      if (kind < OPERATION || span.start[i] + span.length[i] <= a || (kind === OPERATION && shown.has(key))) continue;
      shown.set(key, `${thread === MAIN ? "main" : "microthread " + thread}: ${words}${place ? ` at ${place}` : ""}`);
    }
  }
  lines.push(...shown.values());
  const links = [];
  for (let k = 0; k < 5; k++) if (load[p * LINKS + k]) links.push(`${SIDES[k]} ${rate(load[p * LINKS + k])}`);
  if (links.length) lines.push(`router sends ${links.join(", ")} wavelets a cycle`);
  if (pass.data.length) {
    const sent = [];
    for (let i = above(pass.cycle, a - 1); i < pass.cycle.length && pass.cycle[i] < b && sent.length < 4; i++) {
      if (pass.place[i] !== p || (color >= 0 && pass.color[i] !== color)) continue;
      sent.push(`color ${pass.color[i]}: 0x${pass.data[i].toString(16).padStart(8, "0")} from ${SIDES[pass.from[i]]}`);
    }
    lines.push(...sent);
  }
  return lines;
}

// A row of a legend: a swatch, words, a number. Rows stay, so that one can click them while the run plays.
function legendRow(tag, words) {
  const row = document.createElement(tag);
  row.append(document.createElement("i"), Object.assign(document.createElement("span"), { textContent: words }), document.createElement("b"));
  return row;
}
const stateRows = new Map(), colorRows = new Map();
const seenStates = new Set(seg.state);
DATA.states.forEach(([, words], state) => {
  if (state > 0 && !seenStates.has(state)) return;
  const row = legendRow("button", short(words));
  row.title = `${words}: click to see only these PEs`;
  row.onclick = () => { focus = focus === state ? -1 : state; draw(); };
  stateRows.set(state, row);
});
$("states").append(...stateRows.values());
for (const c of usedColors) {
  const row = legendRow("button", `color ${c}`);
  row.title = `Wavelets of color ${c} through routers: click to see only these`;
  row.onclick = () => { color = color === c ? -1 : c; $("color").value = color; draw(); };
  colorRows.set(c, row);
}
$("colors").append(...colorRows.values());
$("wavelets").hidden = usedColors.length === 0;
$("groups").append(...GROUPS.filter((_, i) => groupOf.some((group, state) => group === i && seenStates.has(state)))
  .map(([, name, words]) => {
    const label = document.createElement("span"), swatch = document.createElement("i");
    swatch.style.background = `var(--${name})`;
    label.append(swatch, words);
    return label;
  }));

function put(element, value) { if (element.textContent !== value) element.textContent = value; }
function drawWords() {
  put($("cycle"), `cycle ${comma(now)}` + (frame() > 1 ? ` to ${comma(frameEnd())}` : "") + ` of ${comma(CYCLES)}`);
  put($("range"), to - from < CYCLES ? `timeline: ${comma(from)} to ${comma(to)}` : "drag selects a range");
  put($("chosen"), where(chosen) + (placed[chosen] === NOTHING ? "" : `, ${DATA.programs[placed[chosen]]}`));
  $("facts").replaceChildren(...describe(chosen).map((line) => Object.assign(document.createElement("div"), { textContent: line })));
  for (const [state, row] of stateRows) {
    row.firstChild.style.background = palette[state];
    row.setAttribute("aria-pressed", focus === state);
    put(row.lastChild, counts[state] ? comma(counts[state]) : "");
  }
  for (const [c, row] of colorRows) {
    row.firstChild.style.background = wave[waveOf.get(c)];
    row.setAttribute("aria-pressed", color === c);
    put(row.lastChild, passed[c] >= .5 ? comma(passed[c]) : "");
  }
  put($("spent-in"), `${where(chosen)} from cycle ${comma(from)} to ${comma(to)}`);
  $("spent").replaceChildren(...spent(chosen, from, to).slice(0, 8).map(([state, cycles]) => {
    const row = legendRow("div", short(DATA.states[state][1]));
    row.firstChild.style.background = palette[state];
    row.lastChild.textContent = `${comma(cycles)}, ${percent(cycles / (to - from))}`;
    return row;
  }));
}
function tip(event, words) {
  const box = $("tip");
  box.style.display = words ? "block" : "none";
  put(box, words || "");
  if (!words) return;
  const size = box.getBoundingClientRect();
  const below = event.clientY + 16 + size.height < innerHeight;
  box.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - size.width - 6)) + "px";
  box.style.top = Math.max(4, below ? event.clientY + 16 : event.clientY - size.height - 10) + "px";
}
