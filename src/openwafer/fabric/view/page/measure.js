// --- of a frame [a, b): the state of each PE, and the load of each link ---

// The state that a PE had most of the frame, if not idle, and the share of the frame in which it was not idle.
const best = new Uint16Array(PES), share = new Float32Array(PES), hint = segAt.slice(0, PES);
const weight = new Float64Array(DATA.states.length), seen = new Uint16Array(DATA.states.length);
const counts = new Float64Array(DATA.states.length);
let statesOf = "";
function measureStates(a, b) {
  if (statesOf === `${a} ${b}`) return;
  statesOf = `${a} ${b}`;
  counts.fill(0);
  for (let p = 0; p < PES; p++) {
    if (placed[p] === NOTHING) continue;
    const first = segAt[p], end = segAt[p + 1];
    // While the run plays, the frame's first segment is that of the last frame or the next one.
    let i = hint[p];
    if (i + 1 < end && seg.start[i + 1] <= a) i++;
    if (i >= end || seg.start[i] > a || (i + 1 < end && seg.start[i + 1] <= a)) i = Math.max(first, above(seg.start, a, first, end) - 1);
    hint[p] = i;
    let most = 0, busy = 0, kinds = 0;
    for (; i < end && seg.start[i] < b; i++) {
      const part = (Math.min(b, seg.start[i] + seg.length[i]) - Math.max(a, seg.start[i])) * seg.share[i] / 255;
      if (part <= 0) continue;
      const state = seg.state[i];
      if (weight[state] === 0) seen[kinds++] = state;
      weight[state] += part;
      busy += part;
    }
    for (let k = 0; k < kinds; k++) if (most === 0 || weight[seen[k]] > weight[most]) most = seen[k];
    for (let k = 0; k < kinds; k++) weight[seen[k]] = 0;
    best[p] = most; share[p] = Math.min(1, busy / (b - a));
    counts[most]++;
  }
}

// Wavelets a cycle over each link of each router: west, east, south, north, up to the PE, down from it; and, of a link, the
// color that most of them have.
const LINKS = 6, UP = 4, DOWN = 5;
const load = new Float32Array(PES * LINKS), loadColor = new Uint8Array(PES * LINKS), lead = new Float32Array(PES * LINKS);
const passed = new Float64Array(256);
let loadsOf = "";
function addLoad(at, amount, of) {
  load[at] += amount;
  if (loadColor[at] === of) lead[at] += amount;
  else if ((lead[at] -= amount) < 0) { loadColor[at] = of; lead[at] = -lead[at]; }
}
function measureLoads(a, b) {
  if (loadsOf === `${a} ${b} ${color}`) return;
  loadsOf = `${a} ${b} ${color}`;
  load.fill(0); lead.fill(0); passed.fill(0);
  const bin = DATA.linkBin;
  for (let i = above(pass.cycle, a - bin); i < pass.cycle.length && pass.cycle[i] < b; i++) {
    const part = (Math.min(b, pass.cycle[i] + bin) - Math.max(a, pass.cycle[i])) / bin, number = pass.number[i] * part;
    const of = pass.color[i];
    passed[of] += number;
    if (color >= 0 && of !== color) continue;
    const at = pass.place[i] * LINKS, amount = number / (b - a);
    for (let side = 0; side < 5; side++) if (pass.sides[i] >> side & 1) addLoad(at + side, amount, of);
    if (pass.from[i] >= UP) addLoad(at + DOWN, amount, of);
  }
}
// The busiest link to a neighbour.
function busiest(p) {
  let found = 0;
  for (let k = 1; k < 4; k++) if (load[p * LINKS + k] > load[p * LINKS + found]) found = k;
  return p * LINKS + found;
}

// Cycles of the PE in each state in [a, b), the longest first; idle is what is left.
let spentOf = "", spentRows = [];
function spent(p, a, b) {
  if (spentOf === `${p} ${a} ${b}`) return spentRows;
  spentOf = `${p} ${a} ${b}`;
  const sums = new Map();
  let idle = b - a;
  for (let i = Math.max(segAt[p], above(seg.start, a, segAt[p], segAt[p + 1]) - 1); i < segAt[p + 1] && seg.start[i] < b; i++) {
    const part = (Math.min(b, seg.start[i] + seg.length[i]) - Math.max(a, seg.start[i])) * seg.share[i] / 255;
    if (part <= 0) continue;
    sums.set(seg.state[i], (sums.get(seg.state[i]) || 0) + part);
    idle -= part;
  }
  spentRows = [...sums, [0, Math.max(0, idle)]].sort((one, other) => other[1] - one[1]);
  return spentRows;
}
