// The streaming timeline: one row for each lane, one box for each thing that it did in the last recorded steps.
const ROW = 20;
function timelinePart() {
  const svg = draw("svg", { id: "spans", role: "img", "aria-label": "what each role did when" });
  const kinds = make("div", { class: "kinds" }), pointed = make("p", { class: "pointed" }, "Point at a box to read what it is.");
  const section = make("section", { hidden: true }, make("h2", {}, "Streaming timeline of the last recorded steps"), kinds, svg, pointed);
  let view = null;
  function paint() {
    const wide = svg.clientWidth;
    if (!view || !wide) return;
    const left = Math.min(150, Math.max(70, wide * 0.2)), right = 44, high = view.lanes.length * ROW + 26;
    const x = (us) => left + (wide - left - right) * us / view.length_us;
    svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    svg.style.height = `${high}px`;
    const drawn = [], room = Math.floor(left / 6.2);
    view.lanes.forEach((lane, row) => {
      const top = row * ROW, name = lane.name.length > room ? `${lane.name.slice(0, room - 1)}…` : lane.name;
      drawn.push(draw("rect", { class: "row", x: left, y: top + 2, width: wide - left - right, height: ROW - 4 }));
      drawn.push(draw("text", { x: left - 6, y: top + 14, "text-anchor": "end" }, name, draw("title", {}, lane.name)));
      drawn.push(draw("text", { x: wide, y: top + 14, "text-anchor": "end" }, `${Math.round(100 * lane.busy)} %`));
      lane.spans.forEach((span, i) => drawn.push(draw("rect", { class: `k${span[2]}`, "data-lane": row, "data-span": i, x: x(span[0]).toFixed(2), y: top + 2, width: Math.max(0.4, x(span[0] + span[1]) - x(span[0])).toFixed(2), height: ROW - 4 })));
    });
    for (const [step, at] of view.steps) {
      const low = view.lanes.length * ROW;
      drawn.push(draw("line", { class: "at", x1: x(at), x2: x(at), y1: 0, y2: low + 4 }));
      drawn.push(draw("text", { x: x(at), y: low + 18 }, `step ${step}`));
    }
    svg.replaceChildren(...drawn);
    const met = [...new Set(view.lanes.flatMap((lane) => lane.spans.map((span) => span[2])))].sort();
    kinds.replaceChildren(...met.map((kind) => make("span", { class: `k${kind}` }, make("em", {}, view.kinds[kind]))), make("em", {}, `${took(view.length_us / 1e6)} in all; on the right the share of it in which a lane did anything but wait`));
  }
  svg.addEventListener("pointermove", (event) => {
    const { lane, span } = event.target.dataset;
    if (lane === undefined) return;
    const found = view.lanes[lane], [start, length, kind, name] = found.spans[span];
    pointed.textContent = `${found.name}: ${view.names[name]} (${view.kinds[kind]}), ${took(length / 1e6)} from ${(start / 1000).toFixed(2)} ms on`;
  });
  new ResizeObserver(paint).observe(section);
  return { section, set: (given) => { view = given; section.hidden = !given; paint(); } };
}
