/** A preview that moves: frames side by side in one picture, shown one after the other.
 *
 * It has a colour for each latent pixel, no more. Drawn that small and enlarged softly by the browser, it
 * comes into focus as steps are taken.
 */

import { h } from "./element.js";

const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");
const LATENT = 8; // pixels of the video along a side
const films = new Set();
let ticking = false;

function tick(now) {
  for (const film of films) {
    if (film.canvas.isConnected) film.draw(now);
    else films.delete(film);
  }
  ticking = films.size > 0;
  if (ticking) requestAnimationFrame(tick);
}

/** A canvas that plays a strip of frames. */
export class Film {
  #strip = new Image();
  #frames = 1;
  #fps = 4;
  #height = 1;
  #drawn = -1;

  constructor(label) {
    this.canvas = h("canvas", { role: "img", "aria-label": label, width: 1, height: 1 });
    this.#strip.addEventListener("load", () => this.#loaded());
  }

  /** Show another preview of a video. */
  show(preview, video) {
    this.#frames = preview.frames || 1;
    this.#fps = video.fps || 4;
    this.#height = Math.max(1, Math.round(video.height / LATENT));
    this.#strip.src = preview.image;
  }

  /** Draw the frame that is due at `now` milliseconds. */
  draw(now) {
    const frame = STILL.matches ? 0 : Math.floor((now / 1000) * this.#fps) % this.#frames;
    if (frame === this.#drawn) return;
    this.#drawn = frame;
    const { naturalWidth, naturalHeight } = this.#strip;
    const width = naturalWidth / this.#frames;
    const { canvas } = this;
    const context = canvas.getContext("2d");
    context.drawImage(this.#strip, frame * width, 0, width, naturalHeight, 0, 0, canvas.width, canvas.height);
  }

  #loaded() {
    const { naturalWidth, naturalHeight } = this.#strip;
    this.canvas.height = Math.min(this.#height, naturalHeight);
    this.canvas.width = Math.round((naturalWidth / this.#frames) * (this.canvas.height / naturalHeight));
    this.#drawn = -1;
    films.add(this);
    if (!ticking) {
      ticking = true;
      requestAnimationFrame(tick);
    }
  }
}
