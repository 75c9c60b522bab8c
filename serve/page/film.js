/** A preview that moves: frames side by side in one picture, shown one after the other. */

import { h } from "./element.js";

const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");
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
  #drawn = -1;

  constructor(label) {
    this.canvas = h("canvas", { role: "img", "aria-label": label, width: 1, height: 1 });
    this.canvas.classList.add("pixels");
    this.#strip.addEventListener("load", () => this.#loaded());
  }

  /** Show another strip of `frames` pictures. */
  show(image, frames, fps) {
    this.#frames = frames || 1;
    this.#fps = fps || 4;
    this.#strip.src = image;
  }

  /** Draw the frame that is due at `now` milliseconds. */
  draw(now) {
    const frame = STILL.matches ? 0 : Math.floor((now / 1000) * this.#fps) % this.#frames;
    if (frame === this.#drawn) return;
    this.#drawn = frame;
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.drawImage(this.#strip, frame * width, 0, width, height, 0, 0, width, height);
  }

  #loaded() {
    this.canvas.width = Math.floor(this.#strip.naturalWidth / this.#frames);
    this.canvas.height = this.#strip.naturalHeight;
    this.#drawn = -1;
    films.add(this);
    if (!ticking) {
      ticking = true;
      requestAnimationFrame(tick);
    }
  }
}
