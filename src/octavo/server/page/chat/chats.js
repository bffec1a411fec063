// The chats of this browser. Memory is what counts: the store may be full, off or damaged. Each chat is stored under a
// name of its own, so that damage costs one chat, and two tabs do not overwrite each other's.

import { load, names, onForeignChange, remove, save } from "../lib/store.js";
import { soundMessage } from "./messages.js";

const PREFIX = "chat.";
const OLD = "conversation"; // the only one that an earlier version kept
const TEXTS = ["id", "title", "system", "text", "model", "note", "error"];
const TIMES = ["created", "updated"];
const LONGEST_TITLE = 80; // characters

/** kind: "chat" has messages, "pad" a text that a model continues. last: { start, end } of the latest continuation. */
export function newChat(kind = "chat", system = "") {
  const now = Date.now();
  const parts = { messages: [], text: "", last: null, note: null };
  return { id: newId(now), kind, title: "", created: now, updated: now, model: null, system, ...parts };
}

function newId(now) {
  const random = crypto.getRandomValues(new Uint32Array(2)); // randomUUID does not exist on plain HTTP
  return [now, ...random].map((number) => number.toString(36)).join("-");
}

export const isEmpty = ({ messages, text, title }) => !messages.length && !text && !title;

/** The name that the user gave, or the beginning of what was said. */
export function titleOf({ kind, title, text, messages }) {
  const said = kind === "pad" ? text : (messages.find(({ role }) => role === "user")?.content ?? "");
  const line = said.trim().split("\n", 1)[0].slice(0, LONGEST_TITLE);
  return title || line || (kind === "pad" ? "New completion" : "New chat");
}

/** A chat from stored or imported data, with what is sound of it; null if nothing is. */
export function soundChat(value) {
  if (typeof value !== "object" || value === null) return null;
  const chat = newChat(value.kind === "pad" ? "pad" : "chat");
  for (const name of TEXTS) if (typeof value[name] === "string") chat[name] = value[name];
  for (const name of TIMES) if (Number.isFinite(value[name])) chat[name] = value[name];
  chat.title = chat.title.slice(0, LONGEST_TITLE);
  const { start, end } = value.last ?? {};
  const whole = Number.isInteger(start) && Number.isInteger(end);
  if (whole && start >= 0 && start < end && end <= chat.text.length) chat.last = { start, end };
  if (Array.isArray(value.messages)) chat.messages = value.messages.map(soundMessage).filter(Boolean);
  return isEmpty(chat) ? null : chat;
}

/**
 * onChange(): a chat came, went or changed. onForeign(chat): another tab has changed it.
 * onUnsaved(chat): the store refused it.
 */
export class Chats {
  constructor({ onChange, onForeign, onUnsaved }) {
    Object.assign(this, { onChange, onForeign, onUnsaved });
    this.byId = new Map();
    for (const name of names(PREFIX)) this.read(name);
    this.adoptOld();
    onForeignChange((name) => this.foreign(name));
  }

  has(chat) {
    return this.byId.get(chat.id) === chat;
  }

  /** The latest first. */
  get list() {
    return [...this.byId.values()].sort((a, b) => b.updated - a.updated);
  }

  read(name) {
    const chat = soundChat(load(name, null));
    if (chat === null) return null;
    chat.id = name.slice(PREFIX.length);
    this.byId.set(chat.id, chat);
    return chat;
  }

  adoptOld() {
    const chat = soundChat({ messages: load(OLD, null) });
    if (chat !== null) this.keep(chat);
    remove(OLD);
  }

  foreign(name) {
    if (!name?.startsWith(PREFIX)) return; // null: all was cleared, and this tab goes on with what it has
    const id = name.slice(PREFIX.length);
    const old = this.byId.get(id);
    if (load(name, null) === null) this.byId.delete(id);
    const chat = this.read(name);
    if (old && chat) {
      Object.assign(old, chat); // whoever holds it sees the new content
      this.byId.set(id, old);
    }
    this.onForeign(old ?? chat);
    this.onChange();
  }

  /** Stores what the chat is now. An empty one is not kept. */
  keep(chat) {
    if (isEmpty(chat)) return this.drop(chat);
    this.byId.set(chat.id, chat);
    if (!save(PREFIX + chat.id, chat)) this.onUnsaved(chat);
    this.onChange();
  }

  /** Says that something was said in it just now, so that it comes first. */
  touch(chat) {
    chat.updated = Date.now();
    this.keep(chat);
  }

  drop(chat) {
    this.byId.delete(chat.id);
    remove(PREFIX + chat.id);
    this.onChange();
  }

  /** Adds chats of a file. One that is here already comes as a copy. */
  add(chats) {
    for (const chat of chats) this.keep(this.byId.has(chat.id) ? { ...chat, id: newId(Date.now()) } : chat);
  }
}
