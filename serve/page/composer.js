/** The form a video is asked for with: prompt, model, settings, and what it will take. */

import * as api from "./api.js";
import { button, h } from "./element.js";
import { attempt } from "./notice.js";
import { Estimate } from "./estimate.js";
import { Settings } from "./settings.js";

/** The form; new videos go to the library. */
export class Composer {
  #remixed = null; // the video that is remixed
  #models = [];

  constructor(form, library) {
    this.form = form;
    this.library = library;
    this.prompt = h("textarea", {
      id: "prompt", name: "prompt", rows: 2, maxLength: 2000, required: true,
      placeholder: "What should the video show?", "aria-describedby": "prompt-hint",
    });
    this.model = h("select", { id: "model", onchange: () => this.#pickModel() });
    this.chip = h("p", { class: "chip", hidden: true });
    this.settings = new Settings(() => this.estimate.ask(this.#request()));
    this.estimate = new Estimate();
    this.submit = h("button", { type: "submit", class: "primary" }, "Make video");
    form.append(
      h("label", { for: "prompt" }, "Prompt"), this.prompt,
      h("p", { id: "prompt-hint", class: "unseen" }, "Enter makes the video, Shift and Enter a new line."),
      this.chip,
      h("div", { class: "field" }, h("label", { for: "model" }, "Model"), this.model),
      this.settings.element, this.estimate.element, this.submit,
    );
    form.addEventListener("keydown", (event) => this.#press(event));
    form.addEventListener("submit", (event) => this.#make(event));
  }

  /** Offer these models; the server's default is picked. */
  offer(models) {
    this.#models = models;
    this.model.replaceChildren(...models.map((model) => h("option", { value: model.id }, model.id)));
    const standard = models.find((model) => model.default) ?? models[0];
    if (!standard) return;
    this.model.value = standard.id;
    this.#pickModel();
  }

  /** What the picked model says that it can be asked for. */
  get prompts() {
    return this.#models.find((model) => model.id === this.model.value)?.prompts ?? [];
  }

  /** Ask again what a video takes: the last one may have taught the server more. */
  estimateAgain() {
    this.estimate.ask(this.#request());
  }

  /** Write a prompt, ready to be changed. */
  write(prompt) {
    this.prompt.value = prompt;
    this.prompt.focus();
    this.prompt.select();
  }

  /** Take over a video's prompt and settings. */
  fill(video) {
    this.#endRemix();
    if (this.#models.some((model) => model.id === video.model)) this.model.value = video.model;
    this.#pickModel();
    this.settings.fill(video);
    this.write(video.prompt);
  }

  /** Ask for another prompt with a video's own settings. */
  startRemix(video) {
    this.fill(video);
    this.#remixed = video;
    this.settings.element.disabled = this.model.disabled = true;
    this.chip.replaceChildren(
      h("span", {}, "Remix: another prompt, the same settings and seed"),
      button("close", "End remix", () => this.#endRemix(), { quiet: true }),
    );
    this.chip.hidden = false;
  }

  #endRemix() {
    this.#remixed = null;
    this.settings.element.disabled = this.model.disabled = false;
    this.chip.hidden = true;
  }

  #pickModel() {
    const model = this.#models.find((each) => each.id === this.model.value);
    if (model) this.settings.limit(model);
    this.form.dispatchEvent(new Event("pick"));
  }

  #request() {
    return { prompt: this.prompt.value.trim(), model: this.model.value, ...this.settings.values() };
  }

  /** Enter makes one video, however long it is held; in the prompt, Shift and Enter writes a new line. */
  #press(event) {
    const isWriting = event.target === this.prompt;
    if (event.key !== "Enter" || event.isComposing || (isWriting && event.shiftKey)) return;
    if (event.repeat || isWriting) event.preventDefault();
    if (isWriting && !event.repeat) this.form.requestSubmit();
  }

  async #make(event) {
    event.preventDefault();
    if (this.submit.ariaDisabled) return; // one is being sent
    const request = this.#request();
    if (!request.prompt) {
      this.prompt.focus();
      return;
    }
    this.submit.ariaDisabled = "true"; // not `disabled`, which would lose the focus
    const video = await attempt(() =>
      this.#remixed ? api.remix(this.#remixed.id, request.prompt) : api.create(request),
    );
    this.submit.ariaDisabled = null;
    if (!video) return;
    this.#endRemix();
    // An event may have come first, and then knows more than the answer.
    if (!this.library.videos.has(video.id)) this.library.put(video);
    this.library.choose(video.id);
    document.getElementById("stage").scrollIntoView({ block: "nearest" });
  }
}
