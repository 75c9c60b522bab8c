/** Videos that were interrupted, and go on from their last step. */

import * as api from "./api.js";
import { h } from "./element.js";
import { ago } from "./format.js";
import { attempt } from "./notice.js";

/** The list of unfinished videos; hidden while there are none. */
export class Unfinished {
  #ended = ""; // the videos that were cancelled or failed

  constructor(element, library) {
    Object.assign(this, { element, library });
    this.list = h("ul", { class: "jobs" });
    element.append(h("h2", { id: "unfinished-title" }, "Unfinished"), this.list);
    library.addEventListener("connection", () => library.connected && this.load());
    library.addEventListener("change", () => this.#follow());
  }

  /** Ask the server what is unfinished. */
  async load() {
    const videos = (await attempt(api.unfinished)) ?? [];
    this.element.hidden = videos.length === 0;
    this.list.replaceChildren(...videos.map((video) => this.#item(video)));
  }

  /** Ask again when another video was cancelled, failed or resumed. */
  #follow() {
    const all = this.library.finished().filter((video) => video.status !== "completed");
    const ended = all.map((video) => `${video.id} ${video.bytes}`).join(); // the bytes come once its worker has stopped
    if (ended !== this.#ended) this.load();
    this.#ended = ended;
  }

  #item(video) {
    return h(
      "li",
      { class: "job" },
      h(
        "div",
        { class: "words" },
        h("span", {}, video.prompt),
        h("small", {}, `Step ${video.step}/${video.steps} · ${ago(video.created_at)}`),
      ),
      h(
        "button",
        { type: "button", class: "plain", "aria-label": `Resume: ${video.prompt}`, onclick: () => this.#resume(video) },
        "Resume",
      ),
    );
  }

  async #resume(video) {
    const resumed = await attempt(() => api.resume(video.id));
    if (!resumed) return;
    this.library.put(resumed);
    this.library.choose(resumed.id);
    this.load();
  }
}
