/** All videos that are not waiting, the newest first. */

import { h } from "./element.js";
import { card } from "./card.js";
import { attempt } from "./notice.js";

/** A grid of cards; arrow keys go from one to the next. */
export class Gallery {
  #cards = new Map(); // id -> [what it was drawn for, its element]

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

  /** Draw what changed. */
  render() {
    const words = this.filter.value.toLowerCase();
    const onlyPinned = this.pinned.getAttribute("aria-pressed") === "true";
    const all = this.library.finished();
    const shown = all.filter((video) => (!onlyPinned || video.pinned) && video.prompt.toLowerCase().includes(words));
    const current = this.library.current();
    const items = shown.map((video) => this.#card(video, video === current));
    const known = new Set(all.map((video) => video.id));
    for (const id of this.#cards.keys()) if (!known.has(id)) this.#cards.delete(id);
    arrange(this.grid, items);
    this.element.hidden = all.length === 0;
    this.empty.textContent = shown.length === 0 ? "No video fits." : "";
    this.more.hidden = !this.library.more;
  }

  /** Show the next video, or with -1 the one before. */
  step(by) {
    const all = this.library.finished();
    const place = all.indexOf(this.library.current());
    const next = all[Math.min(Math.max(place + by, 0), all.length - 1)];
    if (next) this.actions.show(next);
  }

  #card(video, current) {
    const compared = this.actions.comparison.has(video.id);
    const drawn = JSON.stringify([video.status, video.pinned, current, compared]);
    const old = this.#cards.get(video.id);
    if (old?.[0] === drawn) return old[1];
    const focused = old?.[1].contains(document.activeElement);
    const place = focused ? [...old[1].querySelectorAll("button")].indexOf(document.activeElement) : 0;
    const item = card(video, this.actions, { current, compared });
    this.#cards.set(video.id, [drawn, item]);
    if (focused) queueMicrotask(() => item.querySelectorAll("button")[place]?.focus());
    return item;
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

/** Make `items` the children of a list, without touching those that are in place. */
function arrange(list, items) {
  items.forEach((item, place) => {
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  });
  while (list.children.length > items.length) list.lastElementChild.remove();
}
