// What outlives a reload. A browser that refuses to keep anything still has a working page.

const PREFIX = "octavo.";

function read(storage, name, fallback) {
  try {
    return JSON.parse(storage().getItem(PREFIX + name)) ?? fallback;
  } catch {
    return fallback; // off, or damaged
  }
}

function write(storage, name, value) {
  try {
    storage().setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false; // off, or full
  }
}

const lasting = () => localStorage;
const tab = () => sessionStorage;

export const load = (name, fallback) => read(lasting, name, fallback);
export const save = (name, value) => write(lasting, name, value);
export const loadForTab = (name, fallback) => read(tab, name, fallback);
export const saveForTab = (name, value) => write(tab, name, value);

export function remove(name) {
  try {
    lasting().removeItem(PREFIX + name);
  } catch {
    // off: then nothing is there
  }
}

/** The names that begin with `prefix`. */
export function names(prefix) {
  try {
    const all = Object.keys(lasting()).filter((name) => name.startsWith(PREFIX + prefix));
    return all.map((name) => name.slice(PREFIX.length));
  } catch {
    return [];
  }
}

/** Calls changed(name) when another tab has changed what is kept under `name`; null: all of it. */
export function onForeignChange(changed) {
  addEventListener("storage", ({ key }) => {
    if (key === null) changed(null);
    else if (key.startsWith(PREFIX)) changed(key.slice(PREFIX.length));
  });
}
