// A figure with the line of its past: what it is now, and the shape of how it got there.

import { el, setText, svg } from "../lib/dom.js";

const WIDTH = 100;
const HEIGHT = 28;
const TOP = 2; // room for the line's own thickness

/**
 * { node, update(values, now, detail) }. values: numbers, the oldest first; the line's foot is 0. now, detail: text.
 * title: the node that shows the label.
 */
export function sparkline(label, title) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" };
  const picture = svg("svg", box, area, line);
  const value = el("b", {}, "–");
  const more = el("small");
  const node = el("div", { class: "spark" }, el("div", { class: "spark-head" }, title, more), value, picture);
  const update = (values, now, detail = "") => {
    setText(value, now);
    setText(more, detail);
    const path = points(values);
    line.setAttribute("d", path && `M${path}`);
    area.setAttribute("d", path && `M0,${HEIGHT}L${path}L${WIDTH},${HEIGHT}Z`);
    picture.setAttribute("aria-label", `${label}: now ${now}${detail && `, ${detail}`}`);
  };
  return { node, update };
}

function points(values) {
  if (values.length < 2) return "";
  const highest = Math.max(...values) || 1;
  const x = (index) => ((index * WIDTH) / (values.length - 1)).toFixed(2);
  const y = (value) => (HEIGHT - (value / highest) * (HEIGHT - TOP)).toFixed(2);
  return values.map((value, index) => `${x(index)},${y(value)}`).join("L");
}
