/** Keys, and the dialog that lists them. */

import { open } from "./dialog.js";
import { button, h } from "./element.js";
import { isWaiting } from "./library.js";
import { toggleTheme } from "./theme.js";

const OFF = "shortcuts-off";
const WRITING = "input:not([type=checkbox]), textarea, select, [contenteditable]";
const PRESSED = "button, a, summary, video";

/** Listen to the keyboard; `page` has the composer, stage, gallery, library and actions. */
export class Shortcuts {
  constructor(page) {
    const on = (work, fits = () => true) => () => {
      const video = page.library.current();
      if (video && fits(video)) work(video);
    };
    const done = (video) => video.status === "completed";
    const { actions, stage, gallery } = page;
    this.keys = [
      ["N", "Write a prompt", () => page.composer.prompt.focus()],
      ["/", "Search prompts", () => gallery.filter.focus()],
      [" ", "Play or pause", on(() => stage.screen.toggle(), done)],
      ["L", "Loop", on(() => stage.loop(), done)],
      ["J", "Next video", () => gallery.step(1)],
      ["K", "Previous video", () => gallery.step(-1)],
      ["R", "Remix", on((video) => actions.remix(video))],
      ["U", "Use its settings", on((video) => actions.reuse(video))],
      ["C", "Compare", on((video) => actions.compare(video), done)],
      ["P", "Pin", on((video) => actions.pin(video), done)],
      ["Y", "Copy its command", on((video) => actions.copy(video))],
      ["X", "Cancel", on((video) => actions.cancel(video), isWaiting)],
      ["Delete", "Delete", on((video) => actions.remove(video), (video) => !isWaiting(video))],
      ["T", "Light or dark", toggleTheme],
      ["?", "This list", () => this.help()],
    ];
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Return the button that opens the list. */
  button = () => button("help", "Keyboard shortcuts", () => this.help(), { quiet: true, key: "?" });

  /** Show all keys. */
  help() {
    const off = localStorage.getItem(OFF) !== null;
    const keep = (event) => (event.target.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1"));
    const rows = [["Enter", "In the prompt: make the video"], ["Arrows", "In the gallery: go from video to video"], ...this.keys];
    open("Keyboard shortcuts", { class: "small" },
      h("dl", { class: "keys" }, rows.map(([key, words]) =>
        h("div", {}, h("dt", {}, h("kbd", {}, key === " " ? "Space" : key)), h("dd", {}, words)),
      )),
      h("label", { class: "check" }, h("input", { type: "checkbox", checked: !off, onchange: keep }), "Single keys do something"),
    );
  }

  #press(event) {
    const { target } = event;
    if (event.key === "Escape" && target.matches(WRITING)) target.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (target.closest(WRITING) || document.querySelector("dialog[open]")) return;
    if (event.key === " " && target.closest(PRESSED)) return; // it presses that
    if (localStorage.getItem(OFF) !== null && event.key !== "?") return;
    const found = this.keys.find(([key]) => key.toLowerCase() === event.key.toLowerCase());
    if (!found) return;
    event.preventDefault();
    found[2]();
  }
}
