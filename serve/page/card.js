/** A small picture of a video in the gallery; it plays while it is pointed at or has the focus. */

import * as api from "./api.js";
import { button, h } from "./element.js";
import { ago } from "./format.js";
import { player } from "./screen.js";

/** The list item of a video that is finished, cancelled or failed. */
export class Card {
  constructor(video, actions) {
    const done = video.status === "completed";
    const picture = h("span", { class: "picture" }, done ? thumbnail(video) : h("span", { class: "empty" }, video.status));
    picture.style.aspectRatio = video.size.replace("x", " / ");
    const show = () => actions.show(video);
    this.open = h("button", { type: "button", class: "open", "aria-label": `Show: ${video.prompt}`, onclick: show }, picture);
    this.compare = button("compare", `Compare: ${video.prompt}`, () => actions.compare(this.video), { quiet: true });
    this.pin = button("pin", `Pin: ${video.prompt}`, () => actions.pin(this.video), { quiet: true });
    this.about = h("p", { class: "dim" });
    this.element = h(
      "li",
      { class: "card", "data-id": video.id },
      this.open,
      h("p", { class: "prompt", title: video.prompt }, video.prompt),
      this.about,
      done ? h("div", { class: "corner" }, this.compare, this.pin) : null,
    );
    if (done) playWhilePointedAt(this.element, picture, video);
  }

  /** Show how a video stands. */
  update(video, current, compared) {
    this.video = video;
    this.open.ariaCurrent = String(current);
    this.compare.ariaPressed = String(compared);
    this.pin.ariaPressed = String(video.pinned);
    this.about.textContent = `${video.size.replace("x", "×")} · ${ago(video.completed_at ?? video.created_at)}`;
  }
}

function thumbnail(video) {
  return h("img", {
    src: api.content(video.id, { variant: "thumbnail" }), alt: "", loading: "lazy",
    class: parseInt(video.size) < 256 ? "pixels" : null,
  });
}

function playWhilePointedAt(item, picture, video) {
  let playing = null;
  const start = () => {
    if (playing) return;
    playing = player(video, { autoplay: true });
    picture.append(playing);
  };
  const stop = () => {
    if (item.matches(":hover, :focus-within")) return;
    playing?.remove();
    playing = null;
  };
  item.addEventListener("pointerenter", start);
  item.addEventListener("focusin", start);
  item.addEventListener("pointerleave", stop);
  item.addEventListener("focusout", () => setTimeout(stop));
}
