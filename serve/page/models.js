/** The view of bundles: their sizes, limits and model cards. */

import { h } from "./element.js";
import { markdown } from "./markdown.js";

/** Draw the models into their view. */
export function showModels(view, models) {
  view.replaceChildren(
    h("h1", { tabIndex: -1 }, "Models"),
    ...models.map((model) => h("article", { class: "panel" }, summary(model), card(model))),
  );
}

function summary(model) {
  const { limits = {} } = model;
  const facts = [
    ["Size", `${model.width}×${model.height}`, range(limits.width, limits.height)],
    ["Frames", `${model.num_frames} at ${model.fps}/s`, range(limits.num_frames)],
    ["Steps", String(model.num_inference_steps), range(limits.num_inference_steps)],
  ];
  return h("header", {},
    h("h2", {}, model.id, model.default ? h("span", { class: "badge" }, "Default") : null),
    h("dl", { class: "facts" }, facts.map(([name, value, note]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, value, note ? h("small", {}, ` ${note}`) : null)),
    )),
  );
}

function card(model) {
  if (!model.card) return h("p", { class: "dim" }, "This bundle has no model card.");
  return h("details", { class: "card-text", open: model.default },
    h("summary", {}, "Model card"), ...markdown(model.card));
}

/** Return limits in words, as in "8–1024". */
function range(...limits) {
  const words = limits.filter(Boolean).map(({ min, max }) => `${min}–${max}`);
  return words.length > 1 && words[0] !== words[1] ? `(${words.join(", ")})` : words[0] ? `(${words[0]})` : "";
}
