/** Seconds of each stage, as one bar and its legend. */

import { h } from "./element.js";
import { seconds, stage } from "./format.js";

const HUES = ["text_encoder", "unet", "vae_decoder", "load"]; // others share the fifth

/** Return a bar of `[name, seconds]` pairs; `note` goes under a stage's name. */
export function timeline(parts, note = () => null) {
  const shown = parts.filter(([name, value]) => name !== "total" && value > 0);
  const total = shown.reduce((sum, [, value]) => sum + value, 0) || 1;
  const segments = shown.map(([name, value]) => {
    const segment = coloured("segment", name);
    segment.style.flexGrow = String(Math.max(value / total, 0.01));
    return segment;
  });
  const legend = shown.map(([name, value]) =>
    h(
      "li",
      {},
      coloured("dot", name),
      h("span", {}, stage(name), note(name) ? h("small", {}, ` ${note(name)}`) : null),
      h("span", { class: "number" }, seconds(value)),
    ),
  );
  return h(
    "div",
    { class: "timeline" },
    h("div", { class: "segments", "aria-hidden": "true" }, segments),
    h("ul", { class: "legend" }, legend),
  );
}

function coloured(kind, stage) {
  const element = h("span", { class: kind });
  const place = HUES.indexOf(stage);
  element.style.background = `var(--hue-${place < 0 ? HUES.length : place})`;
  return element;
}
