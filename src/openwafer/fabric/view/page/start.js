// --- begin ---

function start() { readTheme(); draw(); }
document.title = DATA.title;
$("title").textContent = DATA.title;
$("subtitle").textContent = `${W} x ${H} PEs, ${DATA.architecture.toUpperCase().replace("WSE", "WSE-")}, timing ${DATA.timing}, `
  + `${comma(CYCLES)} cycles`;
$("color").append(new Option(usedColors.length ? "all colors" : "no wavelets", -1),
  ...usedColors.map((c) => new Option(`color ${c}`, c)));
$("cuts").hidden = DATA.cut.length === 0;
$("cut").append(...DATA.cut.map((words) => Object.assign(document.createElement("li"), { textContent: words })));
// Before and behind it nothing happens: the host copies.
let first = CYCLES, last = 0;
for (let i = 0; i < seg.start.length; i++) {
  first = Math.min(first, seg.start[i]); last = Math.max(last, seg.start[i] + seg.length[i]);
}
if (first < last) zoom(first - (last - first) / 50, last + (last - first) / 50);
now = Math.floor(from);
// #cycle=120&pe=3,4&from=100&to=200&color=2&view=links opens the page there; what it cannot mean is passed over.
const wish = new URLSearchParams(location.hash.slice(1));
const number = (name, most) => {
  const value = wish.has(name) ? Number(wish.get(name)) : NaN;
  return value >= 0 && value <= most ? Math.floor(value) : null;
};
const wished = [number("from", CYCLES) ?? 0, number("to", CYCLES) ?? CYCLES];
if ((wish.has("from") || wish.has("to")) && wished[0] < wished[1]) zoom(...wished);
const [x, y] = (wish.get("pe") || "").split(",").map(Number);
if (Number.isInteger(x) && Number.isInteger(y) && x >= 0 && y >= 0 && x < W && y < H && wish.has("pe")) chosen = y * W + x;
if (usedColors.includes(number("color", 255))) $("color").value = color = number("color", 255);
if ([...$("view").options].some((option) => option.value === wish.get("view"))) $("view").value = wish.get("view");
const cycle = number("cycle", CYCLES - 1);
if (cycle !== null) {
  if (cycle < from || cycle >= to) zoom(0, CYCLES);
  now = cycle;
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", start);
new ResizeObserver(() => draw()).observe($("fabric"));
start();
