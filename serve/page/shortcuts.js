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
    const { actions, composer, gallery, library, stage } = page;
    const shown = () => library.current();
    const focused = () => library.videos.get(document.activeElement.closest("[data-id]")?.dataset.id) ?? shown();
    const on = (find, work, fits = () => true) => () => {
      const video = find();
      if (video && fits(video)) work(video);
    };
    const done = (video) => video.status === "completed";
    this.keys = [
      ["N", "Write a prompt", () => composer.prompt.focus()],
      ["/", "Search prompts", () => gallery.filter.focus()],
      [" ", "Play or pause", on(shown, () => stage.screen.toggle(), done)],
      ["L", "Loop", on(shown, () => stage.loop(), done)],
      ["J", "Next video", () => gallery.step(1)],
      ["K", "Previous video", () => gallery.step(-1)],
      ["R", "Remix", on(focused, (video) => actions.remix(video))],
      ["U", "Use its settings", on(focused, (video) => actions.reuse(video))],
      ["C", "Compare", on(focused, (video) => actions.compare(video), done)],
      ["P", "Pin", on(focused, (video) => actions.pin(video), done)],
      ["Y", "Copy its command", on(focused, (video) => actions.copy(video))],
      ["X", "Cancel", on(focused, (video) => actions.cancel(video), isWaiting)],
      ["Delete", "Delete", on(focused, (video) => actions.remove(video), (video) => !isWaiting(video))],
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
    const rows = [["Enter", "In the prompt: make the video"], ["Arrows", "In the gallery: go from video to video; keys act on it"], ...this.keys];
    open("Keyboard shortcuts", { class: "small" },
      h("dl", { class: "keys" }, rows.map(([key, words]) =>
        h("div", {}, h("dt", {}, h("kbd", {}, key === " " ? "Space" : key)), h("dd", {}, words)),
      )),
      h("label", { class: "check" }, h("input", { type: "checkbox", checked: !off, onchange: keep }), "Use single-key shortcuts"),
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
    if (!found || (event.repeat && !/^[jk]$/i.test(event.key))) return;
    event.preventDefault();
    found[2]();
  }
}
