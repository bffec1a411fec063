// Runs before the page is drawn, so that nobody sees the wrong theme first. The choice: auto, light or dark.
(() => {
  "use strict";
  const CHOICES = ["auto", "light", "dark"];
  const root = document.documentElement;

  function stored() {
    try {
      const choice = localStorage.getItem("octavo.theme");
      return CHOICES.includes(choice) ? choice : "auto";
    } catch {
      return "auto"; // storage is off
    }
  }

  function apply(choice) {
    if (choice === "auto") delete root.dataset.theme;
    else root.dataset.theme = choice;
  }

  function name(button, choice) {
    button.setAttribute("aria-label", `Theme: ${choice}`);
    button.title = `Theme: ${choice}`;
  }

  function next(button) {
    const choice = CHOICES[(CHOICES.indexOf(root.dataset.theme ?? "auto") + 1) % CHOICES.length];
    apply(choice);
    name(button, choice);
    try {
      localStorage.setItem("octavo.theme", choice);
    } catch {
      // then for this visit only
    }
    document.dispatchEvent(new Event("themechange"));
  }

  apply(stored());
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("toggle-theme");
    name(button, stored());
    button.addEventListener("click", () => next(button));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.dispatchEvent(new Event("themechange")),
  );
})();
