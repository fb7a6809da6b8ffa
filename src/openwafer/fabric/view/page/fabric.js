// --- the fabric ---

const fabric = $("fabric").firstElementChild;
// `near` times as large as all of it, about (x, y) in PEs.
const eye = { near: 1, x: W / 2, y: H / 2 };
const AXIS = 46, TOP = 24, EDGE = 12, LARGEST = 110;
let layout = null;
// Sizes of several pixels are whole pixels, so that all PEs are alike.
const sizeOf = (size) => size >= 4 ? Math.floor(size) : size;
const placeOf = (at, size) => size >= 4 ? Math.round(at) : at;
function place2d(w, h) {
  const width = w - AXIS - EDGE, height = h - TOP - EDGE, all = Math.min(width / W, height / H, LARGEST);
  eye.near = Math.max(1, Math.min(eye.near, Math.max(1, LARGEST / all)));
  const size = sizeOf(all * eye.near);
  // What is larger than its room fills it; what is smaller stays in it.
  const hold = (at, count, room) => {
    const ends = [room / 2 / size, count - room / 2 / size];
    return eye.near === 1 ? count / 2 : Math.max(Math.min(...ends), Math.min(Math.max(...ends), at));
  };
  eye.x = hold(eye.x, W, width); eye.y = hold(eye.y, H, height);
  const gap = size >= 30 ? size * .3 : size >= 12 ? Math.round(size * .24) : size > 4 ? 1 : 0;
  const left = placeOf(AXIS + width / 2 - eye.x * size, size), top = placeOf(TOP + height / 2 - eye.y * size, size);
  const x0 = Math.max(0, Math.floor((AXIS - left) / size)), y0 = Math.max(0, Math.floor((TOP - top) / size));
  const x1 = Math.min(W, Math.ceil((AXIS + width - left) / size)), y1 = Math.min(H, Math.ceil((TOP + height - top) / size));
  return { size, gap, left, top, x0, y0, x1, y1, width, height, all };
}
const WAITS = new Set(["wait", "send", "other", "microwait"]);
const hides = (state) => (focus >= 0 && state !== focus) || ($("view").value === "waits" && !WAITS.has(DATA.states[state][0]));

function peColor(p, only) {
  if (placed[p] === NOTHING) return rgbNone;
  if (only || best[p] === 0 || hides(best[p])) return rgbIdle;
  return mix(rgbIdle, paletteRgb[best[p]], .3 + .7 * share[p]);
}
let rgbNone, rgbIdle;
const text = (words) => `rgb(${words.map(Math.round).join(" ")})`;
function drawFabric() {
  const [g] = fitted(fabric), { size, gap, left, top, x0, y0, x1, y1, width, height } = layout;
  const only = $("view").value === "links";
  measureStates(now, frameEnd()); measureLoads(now, frameEnd());
  rgbNone = rgb(theme.none); rgbIdle = rgb(theme.idle);
  g.font = "10px system-ui, DejaVu Sans, sans-serif"; g.fillStyle = theme.soft;
  const every = roundStep(28 / size), above = Math.max(TOP, top), beside = Math.max(AXIS, left);
  g.textAlign = "center";
  for (let x = Math.ceil(x0 / every) * every; x < x1; x += every) {
    const at = left + (x + .5) * size;
    if (at >= AXIS && at <= AXIS + width) g.fillText(x, at, above - 6);
  }
  g.textAlign = "right";
  for (let y = Math.ceil(y0 / every) * every; y < y1; y += every) {
    const at = top + (y + .5) * size;
    if (at >= TOP && at <= TOP + height) g.fillText(y, beside - 7, at + 3);
  }
  g.fillText("x \u2192", beside - 14, above - 6);
  g.save(); g.translate(beside - 32, above + 4); g.rotate(-Math.PI / 2); g.fillText("\u2190 y", 0, 0); g.restore();
  g.save(); g.beginPath(); g.rect(AXIS - 3, TOP - 3, width + 6, height + 6); g.clip();
  if (size < 12) drawSmall(g, only);
  else { drawSquares(g, only); drawLinks(g); }
  for (const [p, style, line] of [[hovered, theme.soft, 1.5], [chosen, theme.accent, 2]]) {
    if (p < 0) continue;
    g.strokeStyle = style; g.lineWidth = line;
    const x = left + (p % W) * size + gap / 2, y = top + (p / W | 0) * size + gap / 2;
    // A PE of a pixel or two is found by a ring around it.
    const more = Math.max(1, (7 - size) / 2);
    g.strokeRect(x - more, y - more, size - gap + 2 * more, size - gap + 2 * more);
  }
  g.restore();
}
function drawSquares(g, only) {
  const { size, gap, left, top, x0, y0, x1, y1 } = layout, side = size - gap;
  // About six pixels a letter.
  const letters = Math.floor(side / 6);
  g.textAlign = "center";
  for (let j = y0; j < y1; j++) for (let i = x0; i < x1; i++) {
    const p = j * W + i, x = left + i * size + gap / 2, y = top + j * size + gap / 2, back = peColor(p, only);
    g.fillStyle = text(back);
    g.fillRect(x, y, side, side);
    if (size <= 64 || back === rgbIdle || back === rgbNone) continue;
    g.fillStyle = inkOn(back);
    const words = DATA.states[best[p]][1].replace(/ \(.*/, "").split(" ").slice(0, 4);
    words.forEach((word, k) => g.fillText(word.slice(0, letters), x + side / 2, y + side / 2 - 3 + 11 * (k - (words.length - 1) / 2)));
  }
}
// Small PEs are the pixels of an image. With links alone, or with one color's wavelets, a PE is as strong as its busiest
// link; by its square root, because over many cycles loads are small.
const image = document.createElement("canvas");
image.width = W; image.height = H;
const pixels = new ImageData(W, H);
function drawSmall(g, only) {
  const { size, left, top } = layout, data = pixels.data;
  for (let p = 0; p < PES; p++) {
    let c = peColor(p, only);
    if (only || color >= 0) {
      c = mix(c, rgbIdle, .6);
      const link = busiest(p), most = Math.max(load[link], load[p * LINKS + UP], load[p * LINKS + DOWN]);
      if (most > 0) c = mix(c, waveRgb[waveOf.get(load[link] > 0 ? loadColor[link] : loadColor[p * LINKS + DOWN])] || c, .2 + .8 * Math.min(1, Math.sqrt(most)));
    }
    data[4 * p] = c[0]; data[4 * p + 1] = c[1]; data[4 * p + 2] = c[2]; data[4 * p + 3] = 255;
  }
  image.getContext("2d").putImageData(pixels, 0, 0);
  g.imageSmoothingEnabled = false;
  g.drawImage(image, left, top, W * size, H * size);
  if (size <= 4) return;
  g.fillStyle = theme.panel;
  for (let x = layout.x0; x <= layout.x1; x++) g.fillRect(left + x * size, top, 1, H * size);
  for (let y = layout.y0; y <= layout.y1; y++) g.fillRect(left, top + y * size, W * size, 1);
}
// A link is two lanes in the gap between two PEs; a lane is as strong as its load, full at one wavelet a cycle.
const LANE = [[-1, 0], [1, 0], [0, 1], [0, -1]];
const strength = (value) => .3 + .7 * Math.sqrt(Math.min(1, value));
function arrow(g, x0, y0, dx, dy, length, head, width) {
  const x1 = x0 + dx * length, y1 = y0 + dy * length;
  g.lineWidth = width;
  g.beginPath(); g.moveTo(x0, y0); g.lineTo(x1 - dx * head * .5, y1 - dy * head * .5); g.stroke();
  g.beginPath(); g.moveTo(x1 + dx * head * .4, y1 + dy * head * .4);
  g.lineTo(x1 - dx * head + dy * head * .7, y1 - dy * head + dx * head * .7);
  g.lineTo(x1 - dx * head - dy * head * .7, y1 - dy * head - dx * head * .7); g.fill();
}
function triangle(g, x, y, r, sign) {
  g.beginPath(); g.moveTo(x - r, y + sign * r); g.lineTo(x + r, y + sign * r); g.lineTo(x, y - sign * r); g.fill();
}
function drawLinks(g) {
  const { size, gap, left, top, x0, y0, x1, y1 } = layout, edge = (size - gap) / 2, lane = size * .11;
  for (let j = y0; j < y1; j++) for (let i = x0; i < x1; i++) {
    const at = (j * W + i) * LINKS, x = left + (i + .5) * size, y = top + (j + .5) * size;
    for (let side = 0; side < 4; side++) {
      const value = load[at + side];
      if (!value) continue;
      const [dx, dy] = LANE[side], start = edge + gap * .08;
      g.strokeStyle = g.fillStyle = wave[waveOf.get(loadColor[at + side])];
      g.globalAlpha = strength(value);
      arrow(g, x + dx * start - dy * lane, y + dy * start + dx * lane, dx, dy, gap * .8, Math.max(2.5, gap * .26),
        Math.max(1, size * .07 * strength(value)));
    }
    // The ramp: a triangle up for what comes to the PE, down for what it sends.
    for (const [slot, sign, away] of [[UP, 1, -.24], [DOWN, -1, .24]]) {
      if (!load[at + slot]) continue;
      const r = Math.max(2, size * .06);
      g.fillStyle = theme.ink; g.globalAlpha = strength(load[at + slot]);
      triangle(g, x + away * (size - gap), y + edge - r * 2, r, sign);
    }
  }
  g.globalAlpha = 1;
}

// What the marks of wavelets mean, drawn as they are drawn in the fabric.
const scale = $("scale").firstElementChild;
function drawScale() {
  const [g, w] = fitted(scale);
  g.font = "10px system-ui, DejaVu Sans, sans-serif";
  const small = layout.size < 12, step = Math.min(58, (w - 40) / 4);
  [.01, .1, .5, 1].forEach((value, i) => {
    const x = 6 + i * step;
    g.globalAlpha = strength(value); g.fillStyle = g.strokeStyle = wave[Math.max(0, waveOf.get(color) ?? 0)] || theme.accent;
    if (small) { g.globalAlpha = .2 + .8 * Math.sqrt(value); g.fillRect(x, 4, 14, 10); }
    else arrow(g, x, 9, 1, 0, 18, 6, 7 * strength(value));
    g.globalAlpha = 1; g.fillStyle = theme.soft; g.textAlign = "left"; g.fillText(value, x + 24, 13);
  });
  g.textAlign = "left"; g.fillStyle = theme.soft;
  g.fillText("a cycle", 6 + 4 * step, 13);
  if (small) g.fillText(color < 0 && $("view").value !== "links" ? "zoom in, or choose one color, to see links" : "the PE's busiest link", 6, 36);
  else {
    g.fillStyle = theme.ink; triangle(g, 10, 32, 5, 1); triangle(g, 120, 32, 5, -1);
    g.fillStyle = theme.soft; g.fillText("up to the PE", 20, 36); g.fillText("down from the PE", 130, 36);
  }
}
