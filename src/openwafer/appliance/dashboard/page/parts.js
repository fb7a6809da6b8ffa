// Elements are made by name and filled with text: no text becomes markup anywhere on this page.
const part = (id) => document.getElementById(id);
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "width_share") element.style.width = `${100 * value}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
const make = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
const draw = (tag, properties = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
// What is shown anew every second must not take the reader's place, focus or selection where nothing changed.
const shownParts = new WeakMap();
function show(element, value, build) {
  const text = JSON.stringify(value);
  if (shownParts.get(element) === text) return;
  shownParts.set(element, text);
  element.replaceChildren(...[build(value)].flat().filter((child) => child !== null && child !== undefined && child !== false));
}
