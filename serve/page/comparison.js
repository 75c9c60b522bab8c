/** Two videos side by side, in step, with what differs between them. */

import { button, h } from "./element.js";
import { open } from "./dialog.js";
import { settings } from "./format.js";
import { notice } from "./notice.js";
import { player } from "./screen.js";

/** The choice of videos to compare; opens the dialog once there are two. */
export class Comparison extends EventTarget {
  #chosen = [];

  /** Whether a video is chosen. */
  has(id) {
    return this.#chosen.some((video) => video.id === id);
  }

  /** Choose a video, or no longer. */
  toggle(video) {
    const others = this.#chosen.filter((each) => each.id !== video.id);
    const isNew = others.length === this.#chosen.length;
    this.#chosen = isNew ? [...others, video] : others;
    if (this.#chosen.length === 2) this.#open(...this.#chosen);
    else if (isNew) notice("Choose a second video to compare.");
    this.dispatchEvent(new Event("change"));
  }

  #open(left, right) {
    const players = [left, right].map((video) => player(video, { autoplay: true }));
    const columns = [left, right].map((video, index) => {
      players[index].style.aspectRatio = video.size.replace("x", " / ");
      return h("figure", {}, players[index], h("figcaption", {}, video.prompt));
    });
    const dialog = open(
      "Compare",
      { class: "compare" },
      h("div", { class: "pair" }, columns),
      h("div", { class: "actions" },
        button("play", "Play or pause both", () => (players[0].paused ? together(players) : players.forEach((each) => each.pause()))),
      ),
      table(left, right),
    );
    players[0].addEventListener("playing", () => together(players), { once: true });
    dialog.addEventListener("close", () => {
      this.#chosen = [];
      this.dispatchEvent(new Event("change"));
    });
  }
}

/** Start both at their first frame. */
function together(players) {
  for (const each of players) {
    each.currentTime = 0;
    each.play().catch(() => {});
  }
}

function table(left, right) {
  const others = settings(right);
  const rows = settings(left).map(([name, value], index) => {
    const other = others[index]?.[1] ?? "–";
    return h("tr", { class: value === other ? null : "differs" },
      h("th", { scope: "row" }, name), h("td", {}, value), h("td", {}, other));
  });
  return h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Setting"), h("th", { scope: "col" }, "Left"), h("th", { scope: "col" }, "Right"))),
    h("tbody", {}, rows),
  );
}
