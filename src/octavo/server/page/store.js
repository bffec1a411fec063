// What outlives a reload. A browser that refuses to keep anything still has a working page.

const PREFIX = "octavo.";

function read(storage, name, fallback) {
  try {
    return JSON.parse(storage().getItem(PREFIX + name)) ?? fallback;
  } catch {
    return fallback;
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
