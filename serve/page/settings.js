/** The settings of a video, within what a model allows and on what the server has. */

import { button, h } from "./element.js";

const FIELDS = [
  ["width", "Width"],
  ["height", "Height"],
  ["num_frames", "Frames"],
  ["fps", "FPS"],
  ["num_inference_steps", "Steps"],
  ["guidance_scale", "Guidance"],
];
const MAX_SEED = Number.MAX_SAFE_INTEGER;

/** A fieldset of inputs; `changed` is called when one has a new valid number. */
export class Settings {
  #inputs = new Map();

  constructor(changed) {
    this.changed = changed;
    this.length = h("output", { class: "number" });
    this.seed = h("input", { id: "seed", type: "number", min: 0, max: MAX_SEED, step: 1, placeholder: "Random" });
    this.device = h("select", { id: "device" });
    this.element = h("fieldset", { class: "settings", oninput: () => this.#update() },
      h("legend", {}, "Settings ", this.length),
      FIELDS.map(([name, label]) => this.#field(name, label)),
      h("div", { class: "field seed" },
        h("label", { for: "seed" }, "Seed"), this.seed,
        button("dice", "New seed", () => this.#roll(), { quiet: true }),
      ),
      h("div", { class: "field" }, h("label", { for: "device" }, "Device"), this.device),
    );
  }

  /** Set the limits and defaults of a model. */
  limit(model) {
    for (const [name] of FIELDS) {
      const input = this.#inputs.get(name);
      const limits = model.limits[name] ?? {};
      const step = limits.multiple ?? (name === "guidance_scale" ? "any" : 1);
      Object.assign(input, { min: limits.min ?? "", max: limits.max ?? "", step });
      input.value = model[name] ?? "";
      input.title = limits.max ? `${limits.min} to ${limits.max}${step > 1 ? `, a multiple of ${step}` : ""}` : "";
    }
    this.#offer(model.devices);
    this.#update();
  }

  /** Take over a video's numbers. */
  fill(video) {
    for (const [name] of FIELDS) this.#inputs.get(name).value = video[name];
    this.seed.value = video.seed;
    this.device.value = video.device;
    if (this.device.selectedIndex < 0) this.device.value = "auto"; // it has no worker any more
    this.#update();
  }

  /** Return the settings that are given. */
  values() {
    const values = { device: this.device.value };
    for (const [name, input] of [...this.#inputs, ["seed", this.seed]]) {
      if (input.value !== "") values[name] = Number(input.value);
    }
    return values;
  }

  /** Offer the devices that have workers; where there is one, it is shown and that is all. */
  #offer(devices) {
    const named = devices.filter((name) => name !== "auto");
    const isChoice = devices.length > 1;
    const any = isChoice ? "First free" : (named[0] ?? "Automatic");
    const option = (value, words) => h("option", { value }, words);
    this.device.replaceChildren(option("auto", any), ...(isChoice ? named : []).map((name) => option(name, name)));
    this.device.disabled = !isChoice;
  }

  #field(name, label) {
    const input = h("input", { id: name, type: "number", required: name !== "guidance_scale" });
    this.#inputs.set(name, input);
    return h("div", { class: "field" }, h("label", { for: name }, label), input);
  }

  #roll() {
    this.seed.value = Math.floor(Math.random() * 100000);
    this.#update();
  }

  #update() {
    const { num_frames: frames, fps } = this.values();
    this.length.textContent = frames && fps ? `${(frames / fps).toFixed(1)} s of video` : "";
    if ([...this.#inputs.values()].every((input) => input.validity.valid)) this.changed();
  }
}
