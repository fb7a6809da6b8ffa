// A chart of lines over steps or over time, with what was pointed at in its legend.
const CHART = { high: 150, left: 52, right: 6, top: 8, bottom: 18 };
function ticks(low, high) {
  const span = high - low || Math.abs(high) || 1, rough = span / 3, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((m) => m >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: Math.max(1, last - first) + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
// lines: [{name, color, points: [[x, y, low, high]]}]; write: y in words; across: x in words; zero: the axis begins at 0.
function chart(title, options) {
  const legend = make("span", { class: "legend" }), svg = draw("svg", { class: "chart", role: "img", "aria-label": title });
  const section = make("section", {}, legend, make("h2", {}, title), svg);
  let lines = [], pointed = null;
  function paint() {
    const wide = svg.clientWidth;
    if (!wide) return;
    const { high, left, right, top, bottom } = CHART, all = lines.flatMap((line) => line.points);
    svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    if (!all.length) {
      svg.replaceChildren(draw("text", { x: wide / 2, y: high / 2, "text-anchor": "middle" }, options.none ?? "no numbers yet"));
      legend.replaceChildren();
      return;
    }
    const xs = all.map((p) => p[0]), ys = all.flatMap((p) => [p[1], p[2] ?? p[1], p[3] ?? p[1]]);
    const begin = Math.min(...xs), end = Math.max(...xs), least = options.zero ? 0 : Math.min(...ys), most = Math.max(...ys, options.zero ? 1e-9 : -Infinity);
    const unit = options.binary ? 1024 ** Math.max(0, Math.floor(Math.log(most) / Math.log(1024))) : 1, marks = ticks(least / unit, most / unit).map((mark) => mark * unit);
    const bottomValue = marks[0], topValue = marks.at(-1);
    const x = (v) => (end > begin ? left + (wide - left - right) * (v - begin) / (end - begin) : (left + wide - right) / 2);
    const y = (v) => top + (high - top - bottom) * (1 - (v - bottomValue) / (topValue - bottomValue || 1));
    const place = (p, v) => `${x(p[0]).toFixed(1)},${y(v).toFixed(1)}`;
    const drawn = [];
    for (const mark of marks) {
      drawn.push(draw("line", { class: "grid", x1: left, x2: wide - right, y1: y(mark), y2: y(mark) }));
      drawn.push(draw("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, options.write(mark)));
    }
    drawn.push(draw("text", { x: left, y: high - 2 }, options.across(begin, end)));
    if (end > begin) drawn.push(draw("text", { x: wide - right, y: high - 2, "text-anchor": "end" }, options.across(end, end)));
    for (const line of lines) {
      const banded = line.points.filter((p) => p.length > 2);
      if (banded.length > 1) {
        const edge = [...banded.map((p) => place(p, p[3])), ...banded.toReversed().map((p) => place(p, p[2]))];
        drawn.push(draw("path", { class: "band", fill: `var(${line.color})`, d: `M${edge.join("L")}Z` }));
      }
      drawn.push(draw("path", { class: "drawn", stroke: `var(${line.color})`, d: line.points.map((p, i) => (i ? "L" : "M") + place(p, p[1])).join("") }));
      if (line.dots || line.points.length === 1) for (const p of line.points) drawn.push(draw("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.5, fill: `var(${line.color})` }));
    }
    const nearest = (points) => points.reduce((a, b) => (Math.abs(x(b[0]) - pointed * wide) < Math.abs(x(a[0]) - pointed * wide) ? b : a));
    const at = pointed === null ? null : nearest(all);
    if (at) drawn.push(draw("line", { class: "at", x1: x(at[0]), x2: x(at[0]), y1: top, y2: high - bottom }));
    svg.replaceChildren(...drawn);
    legend.replaceChildren(at ? options.across(at[0], end) : "", ...lines.filter((line) => line.points.length).map((line) => {
      const entry = make("b", {}, `${line.name} ${options.write((at ? nearest(line.points) : line.points.at(-1))[1])}`);
      entry.style.color = `var(${line.color})`;
      return entry;
    }));
  }
  svg.addEventListener("pointermove", (event) => { pointed = (event.clientX - svg.getBoundingClientRect().left) / svg.clientWidth; paint(); });
  svg.addEventListener("pointerleave", () => { pointed = null; paint(); });
  new ResizeObserver(paint).observe(svg);
  return { section, set: (given) => { lines = given; paint(); } };
}
