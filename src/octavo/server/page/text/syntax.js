// Colours for code, from one regular expression for each language.

import { el } from "../lib/dom.js";
import { LANGUAGES, NUMBER } from "./languages.js";

const LONGEST = 100_000; // characters; longer code stays plain, because a growing answer is coloured again at each frame

const BY_NAME = new Map(LANGUAGES.flatMap(([names, rules]) => names.split(" ").map((name) => [name, rules])));
const compiled = new Map();

function pattern(rules) {
  if (!compiled.has(rules)) {
    const { flags = "", ...kinds } = { number: NUMBER, ...rules };
    const order = ["comment", "keyword", "string", "inserted", "deleted", "number"].filter((kind) => kinds[kind]);
    compiled.set(rules, new RegExp(order.map((kind) => `(?<${kind}>${kinds[kind]})`).join("|"), `g${flags}`));
  }
  return compiled.get(rules);
}

/** Strings and coloured spans that show `text`. language: as after ```; an unknown one gives the text alone. */
export function coloured(text, language) {
  const rules = BY_NAME.get(language.toLowerCase());
  if (!rules || text.length > LONGEST) return [text];
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(pattern(rules))) {
    const [kind] = Object.entries(match.groups).find(([, found]) => found !== undefined);
    if (match.index > end) parts.push(text.slice(end, match.index));
    parts.push(el("span", { class: `code-${kind}` }, match[0]));
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts;
}
