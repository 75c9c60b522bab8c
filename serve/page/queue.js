/** What is being made and what waits; the order can be changed by buttons or by dragging. */

import { button, h } from "./element.js";
import { doing } from "./format.js";

/** The list of waiting videos. */
export class Queue {
  #dragged = null;

  constructor(element, library, actions) {
    Object.assign(this, { element, library, actions });
    this.list = h("ol", { class: "jobs" });
    this.count = h("span", { class: "count" });
    element.append(h("h2", { id: "queue-title" }, "Queue ", this.count), this.list);
    library.addEventListener("change", () => this.render());
  }

  /** Draw the list again, and leave the focus where it was. */
  render() {
    const videos = this.library.queue();
    const waiting = videos.filter((video) => video.status === "queued");
    const focused = document.activeElement?.dataset?.focus;
    this.element.hidden = videos.length === 0;
    this.count.textContent = String(videos.length);
    this.list.replaceChildren(...videos.map((video) => this.#job(video, waiting)));
    if (focused) this.list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }

  #job(video, waiting) {
    const place = waiting.indexOf(video);
    const show = h("button", { type: "button", class: "link", onclick: () => this.actions.show(video) }, video.prompt);
    const item = h(
      "li",
      { class: "job", draggable: place >= 0 },
      h("div", { class: "words" }, show, h("small", {}, doing(video))),
      place >= 0 && waiting.length > 1 ? [
        this.#mover(video, "up", "Move up", place - 1, place === 0),
        this.#mover(video, "down", "Move down", place + 1, place === waiting.length - 1),
      ] : null,
      mark(button("close", `Cancel: ${video.prompt}`, () => this.actions.cancel(video), { quiet: true }), video, "cancel"),
      place < 0 ? h("progress", { max: 100, value: video.progress, "aria-label": `Progress: ${video.prompt}` }) : null,
    );
    mark(show, video, "show");
    if (place >= 0) this.#drag(item, video, place);
    return item;
  }

  #mover(video, name, words, position, disabled) {
    const move = () => this.actions.move(video, position);
    return mark(button(name, `${words}: ${video.prompt}`, move, { quiet: true, disabled }), video, name);
  }

  #drag(item, video, place) {
    item.addEventListener("dragstart", () => { this.#dragged = video; });
    item.addEventListener("dragover", (event) => this.#dragged && event.preventDefault());
    item.addEventListener("drop", (event) => {
      event.preventDefault();
      if (this.#dragged && this.#dragged !== video) this.actions.move(this.#dragged, place);
      this.#dragged = null;
    });
  }
}

/** Name a control, so that it is found again when the list was drawn anew. */
function mark(element, video, name) {
  element.dataset.focus = `${name} ${video.id}`;
  return element;
}
