/** What is being made and what waits; the order can be changed by buttons or by dragging. */

import { arrange, button, h } from "./element.js";
import { doing } from "./format.js";

/** The list of waiting videos. */
export class Queue {
  dragged = null; // the video
  #rows = new Map(); // id -> its row

  constructor(element, library, actions) {
    Object.assign(this, { element, library, actions });
    this.list = h("ol", { class: "jobs" });
    this.count = h("span", { class: "count" });
    element.append(h("h2", { id: "queue-title" }, "Queue ", this.count), this.list);
    library.addEventListener("change", () => this.render());
  }

  /** Bring the rows up to date. A video keeps its row: a click may have begun on it. */
  render() {
    const videos = this.library.queue();
    const waiting = videos.filter((video) => video.status === "queued");
    this.element.hidden = videos.length === 0;
    this.count.textContent = String(videos.length);
    this.#rows = new Map(videos.map((video) => [video.id, this.#rows.get(video.id) ?? new Row(video, this)]));
    for (const video of videos) this.#rows.get(video.id).update(video, waiting.indexOf(video), waiting.length);
    arrange(this.list, [...this.#rows.values()].map((row) => row.element));
  }
}

class Row {
  constructor(video, queue) {
    const { actions } = queue;
    const mover = (name, words, by) =>
      button(name, `${words}: ${video.prompt}`, () => actions.move(video, this.place + by), { quiet: true });
    const drop = (event) => {
      event.preventDefault();
      actions.move(queue.dragged, this.place);
    };
    this.doing = h("small");
    this.up = mover("up", "Move up", -1);
    this.down = mover("down", "Move down", 1);
    this.progress = h("progress", { max: 100, "aria-label": `Progress: ${video.prompt}` });
    this.element = h(
      "li",
      {
        class: "job", "data-id": video.id, ondrop: drop,
        ondragstart: () => { queue.dragged = video; },
        ondragover: (event) => queue.dragged && event.preventDefault(),
        ondragend: () => { queue.dragged = null; },
      },
      h("div", { class: "words" },
        h("button", { type: "button", class: "link", onclick: () => actions.show(video) }, video.prompt), this.doing),
      this.up, this.down,
      button("close", `Cancel: ${video.prompt}`, () => actions.cancel(video), { quiet: true }),
      this.progress,
    );
  }

  /** Show how a video stands; `place` is among the `count` that wait, -1 for the one that is being made. */
  update(video, place, count) {
    this.place = place;
    this.doing.textContent = doing(video);
    this.element.draggable = place >= 0;
    this.up.hidden = this.down.hidden = place < 0 || count < 2;
    this.up.ariaDisabled = String(place === 0); // not `disabled`, which would lose the focus
    this.down.ariaDisabled = String(place === count - 1);
    this.progress.hidden = place >= 0;
    this.progress.value = video.progress;
  }
}
