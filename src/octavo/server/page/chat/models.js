// Which models the server has, and which one the user wants.

import { getModels } from "../lib/api.js";
import { el } from "../lib/dom.js";
import { load, save } from "../lib/store.js";

const AGAIN = 3000; // ms until the models are asked for once more, after that failed

export class Models {
  /**
   * select: its element. key(): the API key. onChange(): another model is chosen. onLearn(): something is known of one.
   * onProblem(error or null): of asking for the models.
   */
  constructor(select, parts) {
    Object.assign(this, { select, ...parts });
    this.found = [];
    this.templates = new Map(); // the main name of a model -> whether it has a chat template, as far as that is known
    this.wanted = load("model", null);
    select.addEventListener("change", () => {
      this.wanted = select.value;
      save("model", select.value);
      this.onChange();
    });
  }

  get chosen() {
    return this.found.find(({ id }) => id === this.select.value);
  }

  get name() {
    return this.chosen?.id;
  }

  get root() {
    return this.chosen?.root;
  }

  /** false for a base model, null while that is not known. */
  get chats() {
    return this.templates.get(this.root) ?? null;
  }

  /** Notes what /octavo/state says of the models: a server knows a template once it has loaded the model. */
  learn(states) {
    const news = states.filter(({ id, chat_template: has }) => has != null && this.templates.get(id) !== has);
    if (!news.length) return;
    for (const { id, chat_template: has } of news) this.templates.set(id, has);
    for (const [at, model] of this.found.entries()) this.select.options[at].textContent = this.label(model);
    this.onLearn();
  }

  /** Chooses a model by name, if the server has it. */
  choose(name) {
    if (!name || name === this.name) return;
    this.wanted = name;
    if (this.found.some(({ id }) => id === name)) {
      this.select.value = name;
      this.onChange();
    }
  }

  async load() {
    clearTimeout(this.timer);
    try {
      this.show(await getModels(this.key()));
    } catch (error) {
      if (error.status !== 401) this.timer = setTimeout(() => this.load(), AGAIN);
      this.onProblem(error);
      return;
    }
    this.onProblem(null);
    this.onChange();
  }

  label({ id, root }) {
    return this.templates.get(root) === false ? `${id} (base)` : id;
  }

  show(found) {
    this.found = found;
    this.select.replaceChildren(...found.map((model) => el("option", { value: model.id }, this.label(model))));
    if (found.some(({ id }) => id === this.wanted)) this.select.value = this.wanted;
    this.select.disabled = !found.length;
  }
}
