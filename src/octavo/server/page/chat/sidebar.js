// The list of chats, and what can be done with each.

import { el, icon } from "../lib/dom.js";
import { titleOf } from "./chats.js";
import { saveJson, saveMarkdown } from "./export.js";

const DAY = 86_400_000; // ms
const MANY = 8; // chats from which on there is a field to search them

/** nodes: { list, search, menu }. actions: { open(chat), rename(chat, title), remove(chat) }. */
export class Sidebar {
  constructor(nodes, actions) {
    Object.assign(this, nodes, { actions });
    this.chats = [];
    this.current = null;
    this.running = [];
    this.target = null; // the chat that the menu is about
    this.search.addEventListener("input", () => this.draw());
    this.menu.addEventListener("click", ({ target }) => this.choose(target.closest("button")?.dataset.do));
    this.menu.addEventListener("keydown", (event) => this.walk(event));
  }

  /** running: chats that are being answered. */
  update(chats, current, running) {
    Object.assign(this, { chats, current, running });
    if (!this.list.querySelector("form")) this.draw(); // a name that is being typed stays
  }

  draw() {
    this.search.hidden = this.chats.length < MANY;
    const wanted = this.search.hidden ? "" : this.search.value.trim().toLowerCase();
    const found = wanted ? this.chats.filter((chat) => contains(chat, wanted)) : this.chats;
    const focused = this.list.contains(document.activeElement) && document.activeElement.closest("li").dataset.id;
    const rows = [];
    let last = null;
    for (const chat of found) {
      const group = age(chat.updated);
      if (group !== last) rows.push(el("li", { class: "age", role: "presentation" }, (last = group)));
      rows.push(this.row(chat));
    }
    if (!rows.length) rows.push(el("li", { class: "none" }, wanted ? "No chat has this in it." : "Chats will be listed here."));
    this.list.replaceChildren(...rows);
    if (focused) this.find(focused)?.querySelector("button").focus();
  }

  row(chat) {
    const title = titleOf(chat);
    const running = this.running.includes(chat);
    const current = chat === this.current;
    const naming = { type: "button", class: "open", title, "aria-current": current && "true" };
    const sign = chat.kind === "pad" ? icon("pad") : null;
    const busy = running ? el("i", { class: "busy", role: "img", "aria-label": "is being answered" }) : null;
    const open = el("button", { ...naming, onclick: () => this.actions.open(chat) }, sign, el("span", {}, title), busy);
    const menu = { type: "button", class: "icon more", "aria-label": `More about ${title}`, "aria-haspopup": "menu" };
    const more = el("button", { ...menu, onclick: () => this.openMenu(chat, more) }, icon("more"));
    return el("li", { class: "row", "data-id": chat.id }, open, more);
  }

  find(id) {
    return [...this.list.children].find((row) => row.dataset.id === id);
  }

  openMenu(chat, opener) {
    this.target = chat;
    this.menu.showPopover();
    const at = opener.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.menu;
    this.menu.style.left = `${Math.min(at.left, innerWidth - width - 8)}px`;
    this.menu.style.top = `${at.bottom + 4 + height < innerHeight ? at.bottom + 4 : at.top - 4 - height}px`;
    this.menu.querySelector("button").focus();
  }

  walk(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const items = [...this.menu.querySelectorAll("button")];
    const at = items.indexOf(document.activeElement) + steps[event.key];
    items[(at + items.length) % items.length].focus();
  }

  choose(what) {
    if (!what) return;
    const { target: chat } = this;
    this.menu.hidePopover();
    const act = {
      rename: () => this.rename(chat),
      markdown: () => saveMarkdown(chat),
      json: () => saveJson([chat], titleOf(chat)),
      remove: () => this.actions.remove(chat),
    };
    act[what]();
  }

  /** Puts a field in the place of the title. Enter and leaving it take the name, Esc does not. */
  rename(chat) {
    const row = this.find(chat.id);
    const field = el("input", { "aria-label": "Name of the chat", maxlength: "80" });
    const form = el("form", { class: "rename" }, field);
    let done = false;
    const end = (take) => {
      if (done) return;
      done = true;
      form.remove();
      if (take) this.actions.rename(chat, field.value.trim());
      this.draw();
      this.find(chat.id)?.querySelector("button").focus();
    };
    field.value = titleOf(chat);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      end(true);
    });
    field.addEventListener("blur", () => end(true));
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // an open drawer stays open
      event.stopPropagation();
      end(false);
    });
    row.replaceChildren(form);
    field.select();
    field.focus();
  }
}

function contains(chat, wanted) {
  const texts = [titleOf(chat), chat.text, ...chat.messages.map(({ content }) => content)];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

function age(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 7 * DAY ? "Last seven days" : "Earlier";
}
