// Elements without markup: text only ever becomes text nodes, so nothing a model says can become an element.

export const byId = (id) => document.getElementById(id);

/** An element. attributes: true sets an empty one, false and null none, "onclick" and the like a listener. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Sets the text only where it differs: a node that is left alone keeps the user's selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A quiet text button. */
export const button = (label, onclick, attributes = {}) =>
  el("button", { type: "button", class: "plain small", ...attributes, onclick }, label);

/** An icon of index.html's set. */
export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));

/** A button that copies what `text()` returns, and says so. */
export function copyButton(text) {
  const node = button("Copy", async () => {
    node.textContent = (await copy(text())) ? "Copied" : "Not allowed";
    setTimeout(() => (node.textContent = "Copy"), 1600);
  });
  return node;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // plain HTTP from another machine has no clipboard API
  }
}

function copyBySelection(text) {
  const area = el("textarea", { class: "hidden", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
