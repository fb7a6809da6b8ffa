// --- what is shown: a PE, a cycle, a range of cycles; and in which colors ---

let from = 0, to = CYCLES, now = 0, chosen = Math.max(0, placed.findIndex((p) => p !== NOTHING)), hovered = -1;
let playing = false, color = -1, focus = -1;
// A frame of the fabric: at least what the data tells apart.
const frame = () => Math.max(1, DATA.bin, Math.ceil((to - from) / 500));
const frameEnd = () => Math.max(now + 1, Math.min(CYCLES, now + frame()));
const usedColors = [...new Set(pass.color)].sort((a, b) => a - b);
const comma = (n) => Math.round(n).toLocaleString("en-US");
const percent = (share) => share > 0 && share < .01 ? "< 1 %" : `${Math.round(share * 100)} %`;
const rate = (n) => n >= .1 ? n.toFixed(2) : n.toPrecision(1);
const where = (p) => `PE (${p % W}, ${p / W | 0})`;
// A step of marks on an axis: 1, 2 or 5 times a power of ten.
function roundStep(wanted) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, wanted)));
  return power * [1, 2, 5, 10].find((m) => m * power >= wanted);
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const probe = document.createElement("canvas").getContext("2d");
// A color as red, green, blue.
function rgb(text) {
  probe.fillStyle = text;
  const number = parseInt(probe.fillStyle.slice(1), 16);
  return [number >> 16, number >> 8 & 255, number & 255];
}
const mix = (a, b, part) => a.map((v, i) => v + (b[i] - v) * part);
const light = ([r, g, b]) => [r, g, b].map((v) => (v / 255) ** 2.2).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
// Black or white, whichever one reads better.
const inkOn = (back) => light(back) > .18 ? "#14181c" : "#ffffff";

let theme = {}, palette = [], paletteRgb = [], wave = [], waveRgb = [];
function readTheme() {
  theme = Object.fromEntries(["page", "panel", "ink", "soft", "line", "accent", "idle", "none", "busy", "wait", "send", "other",
    "micro", "microwait"].map((name) => [name, css("--" + name)]));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const hues = [215, 145, 275, 190, 325, 105, 245, 170, 300, 60];
  let task = 0;
  palette = DATA.states.map(([kind]) => kind === "task"
    ? `hsl(${hues[task % hues.length]} ${task < 10 ? 38 : 22}% ${(dark ? 48 : 58) - 9 * (task++ / hues.length | 0)}%)`
    : theme[kind]);
  paletteRgb = palette.map(rgb);
  // Wavelets' colors are stronger than tasks', and far apart from their neighbours in number.
  wave = usedColors.length === 1 ? [theme.accent]
    : usedColors.map((_, i) => `hsl(${(218 + i * 137.5) % 360} 75% ${(dark ? 66 : 42) - (i > 8 ? 10 : 0)}%)`);
  waveRgb = wave.map(rgb);
}
const waveOf = new Map(usedColors.map((c, i) => [c, i]));

const taskState = new Map();
DATA.states.forEach(([kind, text], i) => { if (kind === "task") taskState.set(text, i); });
const LACKS = [["waits for a wavelet", "wait"], ["waits for room", "send"], ["", "other"]];
function spanColor(name) {
  const [kind, text, place] = DATA.names[name];
  if (kind < OPERATION) return palette[taskState.get(`${text} (${place})`)] || theme.soft;
  return kind === OPERATION ? theme.micro : theme[LACKS.find(([part]) => text.includes(part))[1]];
}

// A canvas of its element's size, in CSS pixels.
function fitted(canvas) {
  const scale = devicePixelRatio || 1, w = canvas.parentElement.clientWidth, h = canvas.parentElement.clientHeight;
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    canvas.width = Math.round(w * scale); canvas.height = Math.round(h * scale);
  }
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, w, h);
  g.font = "11px system-ui, DejaVu Sans, sans-serif";
  return [g, w, h];
}
