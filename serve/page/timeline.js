/** Seconds of each stage, as one bar and its legend. */

import { h } from "./element.js";
import { seconds, stage } from "./format.js";

/** Return a bar of `[name, seconds]` pairs; `note` goes under a stage's name. */
export function timeline(parts, note = () => null) {
  const shown = parts.filter(([name]) => name !== "total");
  const total = shown.reduce((sum, [, value]) => sum + value, 0) || 1;
  const segments = shown.map(([, value], index) => {
    const segment = h("span", { class: `segment hue-${index % 5}` });
    segment.style.flexGrow = String(Math.max(value / total, 0.01));
    return segment;
  });
  const legend = shown.map(([name, value], index) =>
    h(
      "li",
      {},
      h("span", { class: `dot hue-${index % 5}` }),
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
