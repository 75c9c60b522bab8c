/** The part of the page that shows one video, large. */

import * as api from "./api.js";
import { button, h, refocus } from "./element.js";
import { Film } from "./film.js";
import { doing, seconds, settings, total } from "./format.js";
import { isWaiting } from "./library.js";
import { Screen } from "./screen.js";
import { timeline } from "./timeline.js";

const FORMATS = ["mp4", "gif", "webp"];
const SCENES = ["a cat DJ at a party", "a hummingbird at a red flower, slow motion",
  "waves on a beach at sunset", "a steam train in the snow"];

/** Shows the library's current video, its progress, settings and actions. */
export class Stage {
  #shown = ""; // what the details were drawn for
  #films = new Map(); // step -> its small film

  constructor(element, library, actions) {
    Object.assign(this, { element, library, actions });
    this.screen = new Screen();
    this.glow = h("img", { class: "glow", alt: "" });
    this.steps = h("ol", { class: "steps", "aria-label": "Previews of each step" });
    this.progress = h("progress", { max: 100, "aria-label": "Progress" });
    this.doing = h("p", { class: "doing" });
    this.running = h("div", { class: "running" }, this.doing, this.progress);
    this.plate = h("div", { class: "plate" }, this.glow, this.screen.element, this.running);
    this.title = h("h2", { id: "stage-title" });
    this.details = h("div", { class: "details" });
    library.addEventListener("change", () => this.render());
    library.addEventListener("preview", () => this.render());
    actions.composer.form.addEventListener("pick", () => this.render());
  }

  /** Bring the picture and what stands under it up to date. */
  render() {
    const video = this.library.current();
    if (!video) {
      if (this.library.connected) this.#welcome();
      return;
    }
    if (!this.plate.isConnected) {
      this.element.replaceChildren(this.plate, this.steps, this.title, this.details);
    }
    const previews = this.library.previews.get(video.id) ?? [];
    this.screen.show(video, previews);
    this.#showProgress(video, previews.at(-1));
    this.#showSteps(video, previews);
    const shown = JSON.stringify([video.id, video.status, video.pinned, video.error, this.screen.looping]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#showDetails(video);
  }

  #welcome() {
    this.#shown = "";
    const prompts = this.actions.composer.prompts;
    this.element.replaceChildren(
      h(
        "div",
        { class: "plate welcome" },
        h("h2", { id: "stage-title" }, "Nothing made yet"),
        h("p", {}, "Write a prompt, or begin with one of these."),
        h("ul", {}, (prompts.length ? prompts : SCENES).slice(0, 4).map((prompt) =>
          h("li", {}, h("button", { type: "button", class: "plain", onclick: () => this.actions.composer.write(prompt) }, prompt)),
        )),
      ),
    );
  }

  #showProgress(video, preview) {
    this.running.hidden = !isWaiting(video);
    this.progress.value = video.progress;
    const promised = video.promise ? ` · about ${seconds(video.promise.seconds)} in all` : "";
    this.doing.textContent = doing(video) + (video.status === "in_progress" ? promised : "");
    const done = video.status === "completed";
    const image = done ? api.content(video.id, { variant: "thumbnail" }) : preview?.image;
    this.glow.hidden = !image;
    if (image && !this.glow.src.endsWith(image)) this.glow.src = image;
  }

  #showSteps(video, previews) {
    if (this.steps.dataset.id !== video.id) {
      this.steps.dataset.id = video.id;
      this.#films.clear();
      this.steps.replaceChildren();
    }
    for (const preview of previews) {
      const { step } = preview;
      if (this.#films.has(step)) continue;
      const film = new Film(`Preview of step ${step}`);
      film.show(preview, video);
      this.#films.set(step, film);
      this.steps.append(h("li", {}, film.canvas, h("span", {}, `Step ${step}`)));
    }
    this.steps.hidden = this.#films.size === 0;
  }

  #showDetails(video) {
    const focused = this.details.contains(document.activeElement) ? document.activeElement : null;
    this.title.textContent = video.prompt;
    this.details.replaceChildren(
      ...[
        video.error ? h("p", { class: "wrong" }, video.error.message) : null,
        video.status === "cancelled" ? h("p", { class: "dim" }, "Cancelled.") : null,
        this.#actions(video),
        h("dl", { class: "facts" }, settings(video).map(([name, value]) =>
          h("div", {}, h("dt", {}, name), h("dd", {}, value)),
        )),
        video.timings && total(video.timings) ? timeline(Object.entries(video.timings), (name) => video.backends?.[name]) : null,
        video.command ? h("div", { class: "command" },
          h("code", { id: "command", "data-name": "command", tabIndex: 0 }, video.command),
          button("copy", "Copy command", () => this.actions.copy(video), { quiet: true, key: "Y" }),
        ) : null,
      ].filter((part) => part !== null),
    );
    if (focused) refocus(this.details, focused);
  }

  #actions(video) {
    const { actions } = this;
    const all = [button("remix", "Remix", () => actions.remix(video), { key: "R" }),
      button("reuse", "Use settings", () => actions.reuse(video), { key: "U" })];
    if (video.status === "completed") {
      all.unshift(
        button("play", "Play or pause", () => this.screen.toggle(), { quiet: true, key: "Space" }),
        button("loop", "Loop", () => this.loop(), { quiet: true, key: "L", "aria-pressed": String(this.screen.looping) }),
      );
      all.push(
        button("compare", "Compare", () => actions.compare(video), { key: "C" }),
        button("pin", video.pinned ? "Pinned" : "Pin", () => actions.pin(video), { key: "P", "aria-pressed": String(video.pinned) }),
        h("span", { class: "downloads", role: "group", "aria-label": "Download" }, FORMATS.map((format) =>
          h("a", {
            class: "plain", "data-name": format, href: api.content(video.id, { format }), download: "",
            title: `Download as ${format}`, "aria-label": `Download as ${format}`,
          }, format),
        )),
      );
    }
    all.push(isWaiting(video)
      ? button("close", "Cancel", () => actions.cancel(video), { key: "X" })
      : button("trash", "Delete", () => actions.remove(video), { quiet: true, key: "Delete" }));
    return h("div", { class: "actions" }, all);
  }

  /** Loop, or stop at the end. */
  loop() {
    this.screen.setLooping(!this.screen.looping);
    this.render();
  }
}
