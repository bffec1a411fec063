// Puts the page together.

import { Chat } from "./chat/chat.js";
import { Chats, isEmpty, newChat, titleOf } from "./chat/chats.js";
import { Composer } from "./chat/composer.js";
import { askForFile, parse, saveJson } from "./chat/export.js";
import { Models } from "./chat/models.js";
import { Pad } from "./chat/pad.js";
import { Runs } from "./chat/runs.js";
import { Settings } from "./chat/settings.js";
import { Sidebar } from "./chat/sidebar.js";
import { Transcript } from "./chat/transcript.js";
import { Layout } from "./layout.js";
import { Banner } from "./lib/banner.js";
import { byId, el, setText } from "./lib/dom.js";
import { Notices } from "./lib/notices.js";
import { loadForTab, saveForTab } from "./lib/store.js";
import { Live } from "./live/live.js";
import { Glossary } from "./text/glossary.js";
import { Terms } from "./text/terms.js";

const EXAMPLES = [
  "Explain in three sentences how a paged KV cache works.",
  "Write a Python function that reverses the words of a sentence.",
  "What is an octavo?",
];

const CLOSES = "dialog[open], :popover-open:not([popover=manual])"; // what Esc closes, instead of stopping an answer

let current = null; // the chat on screen
const unsaved = new Set(); // chats that the user knows the store has refused
const nodes = (names) => Object.fromEntries(Object.entries(names).map(([name, id]) => [name, byId(id)]));

const notices = new Notices(byId("notice"));
const banner = new Banner(byId("banner"));
new Terms(byId("tip"));
new Glossary(nodes({ dialog: "glossary", body: "glossary-body", opener: "open-glossary", close: "close-glossary" }));

const settings = new Settings(
  nodes({ dialog: "settings", form: "settings-form", close: "close-settings", reset: "reset-settings", keyProblem: "key-problem" }),
  {
    onKey: () => {
      live.wake();
      models.load();
    },
    onSystem: (text) => {
      current.system = text;
      if (!isEmpty(current)) chats.keep(current);
      transcript.showSystem(text);
    },
  },
);
const models = new Models(byId("model"), {
  key: () => settings.key,
  onChange: () => {
    suit();
    live.wake();
  },
  onLearn: suit,
  onProblem: modelsFailed,
});
const runs = new Runs(() => {
  drawList();
  live.wake();
});
const chats = new Chats({
  onChange: () => drawList(),
  onForeign: (chat) => chat === current && !runs.get(chat) && open(chat),
  onUnsaved: warnUnsaved,
});
const transcript = new Transcript(
  nodes({ scroller: "scroller", messages: "messages", welcome: "welcome", toLatest: "to-latest", system: "system" }),
  {
    retry: () => chat.retry(),
    edit: (message, text) => chat.edit(message, text),
    results: (results) => chat.answerCalls(results),
    help: (message) => chat.help(message),
    editSystem: () => settings.open("system"),
  },
);
const composer = new Composer(nodes({ form: "composer", prompt: "prompt", send: "send", stop: "stop" }), {
  onSend: (text) => chat.send(text),
  onStop: () => chat.stop(),
});
const parts = {
  chats, runs, settings, models, notices,
  say: (text) => setText(byId("progress"), text),
  reveal: (each) => {
    open(each);
    layout.show("chat");
  },
  openPad: () => start("pad"),
};
const chat = new Chat({ ...parts, transcript, composer });
const pad = new Pad(
  nodes({
    scroller: "pad-scroller", text: "pad-text", before: "pad-before", fresh: "pad-fresh", after: "pad-after", go: "pad-go",
    stop: "pad-stop", undo: "pad-undo", again: "pad-again", note: "pad-note", problem: "pad-problem",
  }),
  parts,
);
const sidebar = new Sidebar(nodes({ list: "chat-list", search: "chat-search", menu: "chat-menu" }), {
  open: (each) => {
    open(each);
    layout.closeDrawer();
    layout.show("chat");
  },
  rename: (each, title) => chats.keep(Object.assign(each, { title })),
  remove: removeChat,
});
const live = new Live(nodes({ panel: "live", body: "live-body", status: "status" }), {
  key: () => settings.key,
  model: () => models.root,
  own: () => runs.get(current)?.id ?? null,
  onProblem: (text, error) => error?.status !== 401 && banner.set("engine", text),
  onModels: (states) => models.learn(states),
});
const layout = new Layout(() => live.wake());

/** Shows a chat or a pad. */
function open(wanted) {
  current = wanted;
  saveForTab("current", wanted.id);
  models.choose(wanted.model);
  const isPad = wanted.kind === "pad";
  byId("pad").hidden = !isPad;
  byId("chat").hidden = isPad;
  settings.showSystem(wanted.system);
  (isPad ? pad : chat).open(wanted);
  suit();
  drawList();
}

/** Begins a chat, or a pad where the model knows no chats. One that is empty is used instead of a new one. */
function start(kind = models.chats === false ? "pad" : "chat") {
  if (!isEmpty(current) || current.kind !== kind) open(newChat(kind, kind === "chat" ? settings.system : ""));
  layout.closeDrawer();
  layout.show("chat");
  focusText();
}

/** Not on a touch screen: there it would open the keyboard. */
function focusText() {
  if (matchMedia("(hover: hover)").matches) byId(current.kind === "pad" ? "pad-text" : "prompt").focus();
}

function removeChat(removed) {
  runs.stop(removed);
  chats.drop(removed);
  if (removed === current) open(newChat("chat", settings.system));
  notices.show(`Deleted “${titleOf(removed)}”.`, "Undo", () => {
    chats.keep(removed);
    open(removed);
  });
}

function drawList() {
  if (!current) return; // the page is still being put together
  sidebar.update(chats.list, current, runs.chats);
  document.title = isEmpty(current) ? "Octavo" : `${titleOf(current)} · Octavo`;
}

function warnUnsaved(refused) {
  if (unsaved.has(refused.id)) return;
  unsaved.add(refused.id);
  const why = "This browser does not keep this chat: its storage is full or off. It is here until you close the tab.";
  notices.show(why, "Export", () => saveJson([refused], titleOf(refused)));
}

/** Shows what suits the chosen model: a base model has no use for a chat. */
function suit() {
  if (models.chats === false && isEmpty(current) && current.kind === "chat") open(newChat("pad"));
  const lost = current.kind === "chat" && models.chats === false;
  const text = lost ? `${models.name} is a base model: it continues texts and knows no chats.` : "";
  banner.set("model", text, "Open a completion pad", () => start("pad"));
}

function modelsFailed(error) {
  const key = error?.status === 401;
  if (key) banner.set("models", "This server needs an API key.", "Enter the key", () => settings.askForKey());
  else banner.set("models", error?.message ?? "");
  if (key) settings.askForKey();
}

for (const text of EXAMPLES) {
  const take = () => {
    composer.set(text);
    byId("prompt").focus();
  };
  byId("examples").append(el("li", {}, el("button", { type: "button", onclick: take }, text)));
}
for (const node of document.querySelectorAll("[data-new]")) {
  node.addEventListener("click", () => start(node.dataset.new || undefined));
}
byId("open-settings").addEventListener("click", () => settings.open());
byId("export-all").addEventListener("click", () => saveJson(chats.list, "octavo chats"));
byId("import").addEventListener("click", async () => {
  try {
    const found = parse(await askForFile());
    chats.add(found);
    notices.show(`Imported ${found.length === 1 ? "one chat" : `${found.length} chats`}.`);
  } catch (error) {
    notices.show(`Nothing was imported: ${error.message}`);
  }
});
addEventListener("pagehide", () => {
  for (const each of runs.chats) if (chats.has(each)) chats.keep(each); // what has been written so far
});

document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && !document.querySelector(CLOSES)) runs.get(current)?.controller.abort();
});

open(chats.byId.get(loadForTab("current", null)) ?? newChat("chat", settings.system));
models.load();
focusText();
