/** A video's picture: its preview while it is made, then the video itself. */

import * as api from "./api.js";
import { h } from "./element.js";
import { Film } from "./film.js";
import { isWaiting } from "./library.js";

const SMALL = 256; // pixels; a smaller video is enlarged in squares, not blurred

/** Return a looping video element without controls of its own. */
export function player(video, settings = {}) {
  const element = h("video", {
    src: api.content(video.id, { variant: "video" }),
    poster: api.content(video.id, { variant: "thumbnail" }),
    "aria-label": video.prompt,
    muted: true,
    loop: true,
    playsInline: true,
    preload: "auto",
    ...settings,
  });
  if (parseInt(video.size) < SMALL) element.classList.add("pixels");
  return element;
}

/** The large picture of one video. */
export class Screen {
  #film = new Film("");
  #key = "";
  #image = null;
  looping = true;

  constructor() {
    this.video = null; // the element, where there is one
    this.element = h("div", { class: "screen" });
  }

  /** Show a video in its newest state, with its previews. */
  show(video, previews) {
    const key = `${video.id} ${video.status === "completed"}`;
    this.element.style.setProperty("--aspect", video.size.replace("x", " / "));
    if (key !== this.#key) this.#change(key, video);
    const last = previews.at(-1);
    if (video.status === "completed" || last === this.#image) return;
    this.#image = last;
    if (!last) return;
    this.#film.canvas.setAttribute("aria-label", `Preview of step ${last.step}: ${video.prompt}`);
    this.#film.show(last, video);
    if (!this.#film.canvas.isConnected) this.element.replaceChildren(this.#film.canvas);
  }

  /** Play or pause. */
  toggle() {
    if (this.video?.paused) this.video.play().catch(() => {});
    else this.video?.pause();
  }

  /** Loop, or stop at the end. */
  setLooping(looping) {
    this.looping = looping;
    if (this.video) this.video.loop = looping;
    if (looping && this.video?.ended) this.video.play().catch(() => {});
  }

  #change(key, video) {
    this.#key = key;
    this.#image = null;
    this.video = null;
    if (video.status === "completed") {
      const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      this.video = player(video, { autoplay: !still, loop: this.looping, onclick: () => this.toggle() });
      this.element.replaceChildren(this.video);
    } else {
      this.#film = new Film("");
      this.element.replaceChildren(
        h("div", { class: isWaiting(video) ? "noise waiting" : "noise" }),
      );
    }
  }
}
