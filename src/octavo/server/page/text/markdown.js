// The Markdown that models write, as elements: made node by node, never parsed as HTML.
//
// A text is cut into blocks first. As an answer grows only its last block changes, so `update` renders that one anew and
// leaves the others (and a selection in them) alone.

import { copyButton, el } from "../lib/dom.js";
import { inline } from "./inline.js";
import { coloured } from "./syntax.js";

const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^\s{0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^\s{0,3}>\s?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DEEPEST = 8; // quotes and lists within each other; what is further in is a paragraph
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Makes `parent` show `text`. Keeps in `parent.blocks` what it shows already. */
export function update(parent, text) {
  const old = parent.blocks ?? [];
  const sources = split(text);
  let same = 0;
  while (same < old.length && same < sources.length && old[same].source === sources[same]) same += 1;
  for (const block of old.splice(same)) block.nodes.forEach((node) => node.remove());
  for (const source of sources.slice(same)) {
    const nodes = render(source);
    parent.append(...nodes);
    old.push({ source, nodes });
  }
  parent.blocks = old;
}

/** Block sources: a fence with all that is in it, or what stands between empty lines. */
export function split(text) {
  const blocks = [];
  let current = [];
  let fence = null;
  const flush = () => {
    if (current.length) blocks.push(current.join("\n"));
    current = [];
  };
  for (const line of text.split("\n")) {
    const opening = fence === null && FENCE.exec(line);
    if (opening) flush();
    if (fence !== null || opening || line.trim()) current.push(line);
    else flush();
    if (opening) fence = opening[1];
    else if (fence !== null && closes(line, fence)) {
      fence = null;
      flush();
    }
  }
  flush();
  return blocks;
}

function closes(line, fence) {
  const mark = line.trim();
  return mark.length >= fence.length && mark === fence[0].repeat(mark.length);
}

function render(source) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  return fence ? [code(lines, fence)] : renderLines(lines, 0);
}

function code(lines, [opening, fence, language]) {
  const indent = opening.length - opening.trimStart().length;
  const end = lines.length > 1 && closes(lines.at(-1), fence) ? -1 : undefined;
  const strip = (line) => (line.slice(0, indent).trim() === "" ? line.slice(indent) : line);
  const text = lines.slice(1, end).map(strip).join("\n");
  const head = el("figcaption", {}, el("span", {}, language || "text"), copyButton(() => text));
  const pre = el("pre", { tabindex: "0", "aria-label": `Code${language ? `, ${language}` : ""}` }, el("code", {}, ...coloured(text, language)));
  return el("figure", { class: "code" }, head, pre);
}

function renderLines(lines, depth) {
  if (depth > DEEPEST) return [PARAGRAPH.make(lines)];
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const rule = RULES.find(({ starts }) => starts(lines, at)) ?? PARAGRAPH;
    let end = at + 1;
    while (end < lines.length && rule.goesOn(lines, end)) end += 1;
    nodes.push(rule.make(lines.slice(at, end), depth));
    at = end;
  }
  return nodes;
}

const isRow = (lines, at) => lines[at].includes("|");

const RULES = [
  {
    starts: (lines, at) => HEADING.test(lines[at]),
    goesOn: () => false,
    make: ([line]) => {
      const [, marks, text] = HEADING.exec(line);
      return el(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(text)); // the page has h1 and h2 itself
    },
  },
  { starts: (lines, at) => RULE.test(lines[at]), goesOn: () => false, make: () => el("hr") },
  {
    starts: (lines, at) => QUOTE.test(lines[at]),
    goesOn: (lines, at) => QUOTE.test(lines[at]),
    make: (lines, depth) => el("blockquote", {}, ...renderLines(lines.map((line) => line.replace(QUOTE, "")), depth + 1)),
  },
  {
    starts: (lines, at) => isRow(lines, at) && at + 1 < lines.length && isRow(lines, at + 1) && TABLE_RULE.test(lines[at + 1]),
    goesOn: isRow,
    make: table,
  },
  {
    starts: (lines, at) => ITEM.test(lines[at]),
    goesOn: (lines, at) => ITEM.test(lines[at]) || /^\s/.test(lines[at]),
    make: list,
  },
];

const PARAGRAPH = {
  goesOn: (lines, at) => !RULES.some(({ starts }) => starts(lines, at)),
  make: (lines) => el("p", {}, ...inline(lines.map((line) => line.trim()).join("\n"))),
};

function table([head, , ...rows]) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (tag, line) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...inline(cell))));
  const body = el("tbody", {}, ...rows.map((line) => row("td", line)));
  return el("div", { class: "table", tabindex: "0" }, el("table", {}, el("thead", {}, row("th", head)), body));
}

/** Items further in than the list's first are a list of their own within the item before. */
function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const node = ordered ? el("ol", { start: parseInt(mark, 10) }) : el("ul");
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) items.push({ text: [item[3]], inner: [] });
    else if (item || items.at(-1).inner.length) items.at(-1).inner.push(line);
    else items.at(-1).text.push(line.trim());
  }
  for (const { text, inner } of items) {
    node.append(el("li", {}, ...inline(text.join("\n")), ...(inner.length ? renderLines(inner, depth + 1) : [])));
  }
  return node;
}
