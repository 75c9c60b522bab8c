/** A preview that moves: its frames, side by side in one picture, one after the other. It has a colour for each
 * latent pixel; drawn that small and enlarged softly, it comes into focus as steps are taken. */

import { h } from "./element.js";

const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");
const films = new Set(); // while there are any, a tick is due

function tick(now) {
  for (const film of films) {
    if (film.canvas.isConnected) film.draw(now);
    else films.delete(film);
  }
  if (films.size > 0) requestAnimationFrame(tick);
}

/** A canvas that plays a strip of frames. */
export class Film {
  #strip = new Image();
  #frames = 1;
  #fps = 8;
  #drawn = -1;

  constructor(label) {
    this.canvas = h("canvas", { role: "img", "aria-label": label, width: 1, height: 1 });
    this.#strip.addEventListener("load", () => this.#loaded());
  }

  /** Show another preview of a video. */
  show(preview, video) {
    this.#frames = preview.frames || 1;
    this.#fps = video.fps || 8;
    this.#strip.src = preview.image;
  }

  /** Draw the frame that is due at `now` milliseconds. */
  draw(now) {
    const frame = STILL.matches ? 0 : Math.floor((now / 1000) * this.#fps) % this.#frames;
    if (frame === this.#drawn) return;
    this.#drawn = frame;
    const { naturalWidth, naturalHeight } = this.#strip;
    const width = naturalWidth / this.#frames;
    const [source, target] = [[frame * width, 0, width, naturalHeight], [this.canvas.width, this.canvas.height]];
    this.canvas.getContext("2d").drawImage(this.#strip, ...source, 0, 0, ...target);
  }

  #loaded() {
    const { naturalWidth, naturalHeight } = this.#strip;
    this.canvas.height = naturalHeight;
    this.canvas.width = naturalWidth / this.#frames;
    this.#drawn = -1;
    if (films.size === 0) requestAnimationFrame(tick);
    films.add(this);
  }
}
