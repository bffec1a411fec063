// Chats as files: Markdown to read, JSON to keep and to import again.

import { el } from "../lib/dom.js";
import { soundChat, titleOf } from "./chats.js";
import { plainMessages } from "./messages.js";

const SPEAKERS = { system: "System", user: "You", assistant: "Answer", tool: "Tool result" };

export function saveMarkdown(chat) {
  download(`${fileName(titleOf(chat))}.md`, toMarkdown(chat), "text/markdown");
}

/** One chat, or several in one file. */
export function saveJson(chats, name) {
  download(`${fileName(name)}.json`, JSON.stringify({ chats: chats.map(toJson) }, null, 2), "application/json");
}

/** The system prompt goes where other programs look for it, and `parse` finds it there. */
function toJson({ system, ...chat }) {
  const opening = system ? [{ role: "system", content: system }] : [];
  return { ...chat, title: titleOf(chat), messages: [...opening, ...chat.messages] };
}

export function toMarkdown(chat) {
  const title = `# ${titleOf(chat)}\n`;
  if (chat.kind === "pad") return `${title}\n${chat.text}\n`;
  const parts = plainMessages(chat.messages, chat.system).map(({ role, content, tool_calls: calls = [] }) => {
    const called = calls.map(({ function: { name, arguments: given } }) => fenced(`${name}(${given})`));
    return [`## ${SPEAKERS[role]}`, content, ...called].filter(Boolean).join("\n\n");
  });
  return `${[title.trim(), ...parts].join("\n\n")}\n`;
}

/** A fence longer than any in the text. */
function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((marks) => marks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

/** The chats of a file that `saveJson` made, or of a list of messages. Throws if there are none. */
export function parse(text) {
  const data = JSON.parse(text);
  const found = data?.chats ?? (Array.isArray(data) ? [{ messages: data }] : [data]);
  const chats = (Array.isArray(found) ? found : []).map(withSystem).map(soundChat).filter(Boolean);
  if (!chats.length) throw new Error("there is no chat in it");
  return chats;
}

/** Lists of other programs have the system prompt among the messages. */
function withSystem(chat) {
  const first = Array.isArray(chat?.messages) ? chat.messages[0] : null;
  return first?.role === "system" ? { system: first.content, ...chat } : chat;
}

const fileName = (title) => title.replace(/[^\p{L}\p{N} ._-]+/gu, " ").replace(/\s+/g, " ").trim().slice(0, 60) || "chat";

function download(name, text, type) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

/** Asks for a file. Resolves to its text; never if none is chosen. */
export function askForFile() {
  const input = el("input", { type: "file", accept: ".json,application/json" });
  return new Promise((resolve, reject) => {
    input.addEventListener("change", () => input.files[0].text().then(resolve, reject));
    input.click();
  });
}
