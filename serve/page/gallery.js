/** All videos that are not waiting, the newest first. */

import { arrange, h } from "./element.js";
import { Card } from "./card.js";
import { attempt } from "./notice.js";

/** A grid of cards; arrow keys go from one to the next. */
export class Gallery {
  #cards = new Map(); // id -> its card

  constructor(element, library, actions) {
    Object.assign(this, { element, library, actions });
    this.filter = h("input", { type: "search", id: "filter", placeholder: "Search prompts", "aria-label": "Search prompts", oninput: () => this.render() });
    this.pinned = h("button", { type: "button", class: "plain", "aria-pressed": "false", onclick: () => this.#togglePinned() }, "Pinned");
    this.grid = h("ul", { class: "grid", onkeydown: (event) => this.#walk(event) });
    this.empty = h("p", { class: "dim" });
    this.more = h("button", { type: "button", class: "plain more", onclick: () => attempt(() => library.loadMore()) }, "Show more");
    element.append(
      h("header", {}, h("h2", { id: "gallery-title" }, "Gallery"), this.filter, this.pinned),
      this.grid, this.empty, this.more,
    );
    library.addEventListener("change", () => this.render());
    actions.comparison.addEventListener("change", () => this.render());
  }

  /** Bring the cards up to date; a video keeps its card. */
  render() {
    const words = this.filter.value.toLowerCase();
    const onlyPinned = this.pinned.getAttribute("aria-pressed") === "true";
    const all = this.library.finished();
    const shown = all.filter((video) => (!onlyPinned || video.pinned) && video.prompt.toLowerCase().includes(words));
    const card = (video) => this.#cards.get(video.id);
    const same = (video) => card(video)?.video.status === video.status;
    this.#cards = new Map(all.map((video) => [video.id, same(video) ? card(video) : new Card(video, this.actions)]));
    const { comparison } = this.actions;
    const current = this.library.current();
    for (const video of all) this.#cards.get(video.id).update(video, video === current, comparison.has(video.id));
    arrange(this.grid, shown.map((video) => this.#cards.get(video.id).element));
    this.element.hidden = all.length === 0;
    this.empty.textContent = shown.length === 0 ? "No video fits." : "";
    this.more.hidden = !this.library.more;
  }

  /** Show the next of these videos, or with -1 the one before. */
  step(by) {
    const cards = [...this.grid.children].map((item) => this.#cards.get(item.dataset.id));
    const place = cards.findIndex((each) => each.video.id === this.library.current()?.id);
    const next = cards[Math.min(Math.max(place + by, 0), cards.length - 1)];
    if (!next) return;
    this.actions.show(next.video);
    // Keys act on what has the focus: it does not stay behind on another video.
    if (document.activeElement.closest("[data-id]")) next.open.focus({ preventScroll: true });
  }

  #togglePinned() {
    this.pinned.setAttribute("aria-pressed", String(this.pinned.getAttribute("aria-pressed") !== "true"));
    this.render();
  }

  #walk(event) {
    const opens = [...this.grid.querySelectorAll(".open")];
    const place = opens.indexOf(document.activeElement);
    if (place < 0) return;
    const columns = opens.filter((open) => open.offsetTop === opens[0].offsetTop).length;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: opens.length - 1 - place };
    const next = opens[place + moves[event.key]];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    next.focus();
  }
}
