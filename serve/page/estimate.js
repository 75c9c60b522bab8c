/** What a video will take, asked of the server while its settings are chosen. */

import * as api from "./api.js";
import { h } from "./element.js";
import { bytes, seconds } from "./format.js";
import { timeline } from "./timeline.js";

const PAUSE_MS = 250; // after the last key

/** Shows the promise: seconds, memory, and the device of each stage. */
export class Estimate {
  #timer = 0;
  #asked = 0;

  constructor() {
    this.element = h("div", { class: "estimate", "aria-live": "polite", "aria-label": "Estimate", role: "group" });
  }

  /** Ask once settings rest; a later request overtakes an earlier one. */
  ask(request) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fetch(request), PAUSE_MS);
  }

  async #fetch(request) {
    const asked = (this.#asked += 1);
    try {
      const promise = await api.promise({ ...request, prompt: request.prompt || "a video" });
      if (asked === this.#asked) this.#show(promise);
    } catch (error) {
      if (asked === this.#asked) this.element.replaceChildren(h("p", { class: "wrong" }, error.message));
    }
  }

  #show(promise) {
    const stages = promise.stages ?? [];
    const where = new Map(stages.map((each) => [each.stage, `${each.device} ${each.precision}`]));
    this.element.replaceChildren(
      h(
        "dl",
        { class: "figures", title: promise.text },
        figure("Time", `≈ ${seconds(promise.seconds)}`),
        figure("Memory", bytes(promise.memory_bytes)),
      ),
      timeline(stages.map((each) => [each.stage, each.seconds]), (name) => where.get(name)),
    );
  }
}

const figure = (name, value) => h("div", {}, h("dt", {}, name), h("dd", { class: "number" }, value));
