// Numbers and times as people read them.
const whole = (x) => Math.round(x).toLocaleString("en");
function digits(x) {
  if (x === null || x === undefined) return "-";
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return x.toExponential(2);
  return size >= 1000 ? whole(x) : String(Number(x.toPrecision(4)));
}
function bytes(x) {
  if (x === null || x === undefined) return "-";
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (Math.abs(x) < 1000 || unit === "TiB") return `${unit === "B" || x >= 100 ? Math.round(x) : x.toPrecision(3)} ${unit}`;
    x /= 1024;
  }
}
const perSecond = (x) => (x === null || x === undefined ? "-" : `${bytes(x)}/s`);
function flops(x) {
  for (const unit of ["", "k", "M", "G", "T", "P"]) {
    if (x < 1000 || unit === "P") return `${x.toPrecision(3)} ${unit}FLOP/s`;
    x /= 1000;
  }
}
function took(s) {
  if (s === null || s === undefined || !Number.isFinite(s)) return "-";
  if (s > 0 && s < 0.001) return `${Math.round(1e6 * s)} µs`;
  if (s < 0.9995) return `${Math.round(1000 * s)} ms`;
  if (s < 100) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
  return `${(s / 86400).toFixed(1)} d`;
}
function clock(at) {
  const when = new Date(1000 * at);
  const time = when.toLocaleTimeString("en-GB");
  return new Date().toDateString() === when.toDateString() ? time : `${when.toISOString().slice(0, 10)} ${time}`;
}
const several = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const priority = (p) => `p${Math.floor(p / 100)} (${p})`;
// Escape sequences of terminals and other control characters are not text.
const plain = (text) => text.replace(/\x1b\[[0-9;?]*[ -\/]*[@-~]/g, "").replace(/\r+\n/g, "\n").replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "").replace(turned, "");
const stateMark = (state) => make("span", { class: `state ${/^[a-z]+$/.test(state) ? state : ""}` }, state);
