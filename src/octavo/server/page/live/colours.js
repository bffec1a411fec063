// A colour for each sequence, the same as long as it lives. The colours themselves are the theme's (--seq-0 and so on).

export const COLOURS = 8;

export class Colours {
  constructor() {
    this.slots = new Map(); // the name of a sequence -> its colour's number
  }

  /** Colour numbers of the sequences named, in order. Names that are gone give theirs back. */
  assign(names) {
    const here = new Set(names);
    for (const name of this.slots.keys()) if (!here.has(name)) this.slots.delete(name);
    const used = new Array(COLOURS).fill(0);
    for (const slot of this.slots.values()) used[slot] += 1;
    return names.map((name) => {
      if (!this.slots.has(name)) {
        const slot = used.indexOf(Math.min(...used));
        used[slot] += 1;
        this.slots.set(name, slot);
      }
      return this.slots.get(name);
    });
  }
}

/** The theme's colours, as they are now. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  const sequences = Array.from({ length: COLOURS }, (_, index) => get(`--seq-${index}`));
  return { sequences, ink: get("--ink"), paper: get("--surface"), edge: get("--edge"), line: get("--block-free") };
}
