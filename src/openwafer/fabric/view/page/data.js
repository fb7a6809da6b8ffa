// --- data: base64 of zlib, columns that grow as differences ---

const $ = (id) => document.getElementById(id);
async function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Kind(await new Response(stream).arrayBuffer());
}
async function sums(text) {
  const steps = await unpack(text, Int32Array), out = new Float64Array(steps.length);
  for (let i = 0, sum = 0; i < steps.length; i++) out[i] = sum += steps[i];
  return out;
}
// The first entry of each place: places are sorted.
function index(place, places) {
  const first = new Uint32Array(places + 1);
  for (const p of place) first[p + 1]++;
  for (let p = 0; p < places; p++) first[p + 1] += first[p];
  return first;
}
// The first index in [low, high) whose value is above `value`.
function above(values, value, low = 0, high = values.length) {
  while (low < high) { const mid = (low + high) >> 1; if (values[mid] > value) high = mid; else low = mid + 1; }
  return low;
}

const W = DATA.width, H = DATA.height, PES = W * H, CYCLES = DATA.cycles, NOTHING = 0xffff, MAIN = 8;
const SIDES = ["west", "east", "south", "north", "ramp", "host"];
const TASK = 0, COMMAND = 1, OPERATION = 2, WAIT = 3;
const placed = await unpack(DATA.placed, Uint16Array);
const seg = { place: await sums(DATA.segments.place), start: await sums(DATA.segments.start),
  length: await unpack(DATA.segments.length, Uint32Array), state: await unpack(DATA.segments.state, Uint16Array),
  share: await unpack(DATA.segments.share, Uint8Array) };
const span = { place: await sums(DATA.spans.place), start: await sums(DATA.spans.start),
  length: await unpack(DATA.spans.length, Uint32Array), thread: await unpack(DATA.spans.thread, Uint8Array),
  name: await unpack(DATA.spans.name, Uint16Array) };
const pass = { cycle: await sums(DATA.passages.cycle), place: await unpack(DATA.passages.place, Uint32Array),
  color: await unpack(DATA.passages.color, Uint8Array), from: await unpack(DATA.passages.from, Uint8Array),
  sides: await unpack(DATA.passages.sides, Uint8Array), number: await unpack(DATA.passages.number, Uint32Array),
  data: await unpack(DATA.passages.data, Uint32Array) };
const segAt = index(seg.place, PES), spanAt = index(span.place, PES);
// Spans of one thread come by start, but one may hold others: the latest end so far tells where those of a time begin.
const until = new Float64Array(span.start.length);
for (let i = 0; i < until.length; i++) {
  const same = i > 0 && span.place[i - 1] === span.place[i] && span.thread[i - 1] === span.thread[i];
  until[i] = Math.max(same ? until[i - 1] : 0, span.start[i] + span.length[i]);
}
// The spans [first, last) of a PE's thread, of which those of the time [a, b) are a part.
function spansOf(place, thread, a, b) {
  const low = above(span.thread, thread - 1, spanAt[place], spanAt[place + 1]);
  const high = above(span.thread, thread, low, spanAt[place + 1]);
  return [above(until, a, low, high), above(span.start, b - 1, low, high)];
}
