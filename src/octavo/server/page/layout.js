// Which parts of the page are open: the list of chats, the chat, the live view.
//
// In a wide window all three lie side by side, and the outer two can be closed. In a narrow one the list is a drawer, and
// on a phone the chat and the live view are two tabs.

import { byId } from "./lib/dom.js";
import { load, save } from "./lib/store.js";

const DRAWER = matchMedia("(max-width: 1179px)");
const VIEWS = ["chat", "live"];

/** onChange(): the live view came or went. */
export class Layout {
  constructor(onChange) {
    this.onChange = onChange;
    this.list = byId("chats");
    this.opener = byId("toggle-list");
    this.opener.addEventListener("click", () => this.toggleList());
    this.list.addEventListener("toggle", () => this.nameOpener());
    DRAWER.addEventListener("change", () => this.place());
    for (const view of VIEWS) byId(`tab-${view}`).addEventListener("click", () => this.show(view));
    byId("toggle-live").addEventListener("click", () => this.setLive(document.body.dataset.live === "closed"));
    document.body.dataset.list = load("list", "open") === "closed" ? "closed" : "open";
    this.place();
    this.setLive(load("live", "open") !== "closed");
  }

  /** A popover closes on Esc and on a tap beside it, which a drawer should. */
  place() {
    if (DRAWER.matches) this.list.setAttribute("popover", "auto");
    else this.list.removeAttribute("popover");
    this.nameOpener();
  }

  get listIsOpen() {
    return DRAWER.matches ? this.list.matches(":popover-open") : document.body.dataset.list === "open";
  }

  toggleList() {
    if (DRAWER.matches) this.list.togglePopover();
    else {
      document.body.dataset.list = this.listIsOpen ? "closed" : "open";
      save("list", document.body.dataset.list);
    }
    this.nameOpener();
  }

  closeDrawer() {
    if (DRAWER.matches && this.listIsOpen) this.list.hidePopover();
  }

  nameOpener() {
    this.opener.setAttribute("aria-expanded", String(this.listIsOpen));
  }

  /** On a phone: one of VIEWS. */
  show(view) {
    document.body.dataset.view = view;
    for (const name of VIEWS) byId(`tab-${name}`).setAttribute("aria-pressed", String(name === view));
    this.onChange();
  }

  setLive(open) {
    document.body.dataset.live = open ? "open" : "closed";
    byId("toggle-live").setAttribute("aria-pressed", String(open));
    save("live", document.body.dataset.live);
    this.onChange();
  }
}
