// Code spans, emphasis and links within a line of Markdown. Each pattern is bounded, so that no text takes long.

import { el } from "../lib/dom.js";

const LONGEST = 1000; // characters between an opening mark and its closing one
const some = (set) => `${set}{1,${LONGEST}}?`;

const SPANS = [
  { pattern: "\\\\([\\\\`*_{}\\[\\]()#+\\-.!|~>])", make: (text) => text },
  { pattern: `(?<!\`)\`\`(?!\`)(${some("[^]")})\`\`(?!\`)`, make: (text) => el("code", {}, text.trim()) },
  { pattern: `(?<!\`)\`(?!\`)(${some("[^`]")})\`(?!\`)`, make: (text) => el("code", {}, text) },
  { pattern: `\\*\\*(?=\\S)(${some("[^]")})(?<=\\S)\\*\\*(?!\\*)`, make: (text) => el("strong", {}, ...inline(text)) },
  { pattern: `\\b__(?=\\S)(${some("[^]")})(?<=\\S)__\\b`, make: (text) => el("strong", {}, ...inline(text)) },
  { pattern: `\\*(?=[^\\s*])(${some("[^*]")})(?<=\\S)\\*`, make: (text) => el("em", {}, ...inline(text)) },
  { pattern: `(?<!\\w)_(?=[^\\s_])(${some("[^_]")})(?<=\\S)_(?!\\w)`, make: (text) => el("em", {}, ...inline(text)) },
  { pattern: `~~(?=\\S)(${some("[^~]")})~~`, make: (text) => el("del", {}, ...inline(text)) },
  { pattern: "(!?\\[[^\\[\\]\\n]{1,500}\\]\\([^()\\s]{1,1000}\\))", make: link },
  { pattern: "(https?://[^\\s<>\"'`)\\]]{1,1000}[^\\s<>\"'`)\\].,;:!?])", make: (address) => anchor(address, [address]) },
];
const ANY = new RegExp(SPANS.map(({ pattern }) => pattern).join("|"), "gu");

/** Nodes and strings that show `text`. */
export function inline(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(ANY)) {
    const which = match.findIndex((group, index) => index > 0 && group !== undefined) - 1;
    parts.push(text.slice(end, match.index), SPANS[which].make(match[which + 1]));
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts.filter((part) => part !== "");
}

function link(source) {
  const [, label, address] = /^!?\[(.*)\]\((.*)\)$/u.exec(source);
  return anchor(address, inline(label)) ?? source;
}

/** Only addresses of the web become links: no javascript:, no data:, nothing on this server. Pictures are not loaded. */
function anchor(address, label) {
  if (!/^https?:\/\//i.test(address)) return null;
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...label);
}
