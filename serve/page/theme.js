/** Light or dark: as the system says, until the user says otherwise. */

import { button } from "./element.js";

const KEY = "theme";
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

/** Use what was chosen earlier. */
export function restoreTheme() {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

/** Change to the other theme; back at the system's own, follow the system again. */
export function toggleTheme() {
  const root = document.documentElement;
  const dark = (root.dataset.theme ?? (DARK.matches ? "dark" : "light")) === "dark";
  const next = dark ? "light" : "dark";
  if ((next === "dark") === DARK.matches) {
    delete root.dataset.theme;
    localStorage.removeItem(KEY);
  } else {
    root.dataset.theme = next;
    localStorage.setItem(KEY, next);
  }
}

/** Return the button for it. */
export const themeButton = () => button("theme", "Light or dark", toggleTheme, { quiet: true, key: "T" });
