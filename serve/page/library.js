/** What the server knows of videos: a list, kept up to date by its events. */

import * as api from "./api.js";

const MAX_PREVIEWS = 50;

/** Videos, previews and the choice of one. Tells of changes by `change`, `preview`, `connection`. */
export class Library extends EventTarget {
  videos = new Map();
  previews = new Map(); // id -> [{step, image, frames}], of this page's lifetime
  chosen = null; // an id, or null: whatever is being made, else the newest
  connected = null; // null until the first answer
  more = false;
  #seen = new Set(); // ids that events spoke of since the last refresh
  #told = false;
  #listed = []; // the ids of all pages, as the server orders them

  /** Listen to the server for as long as the page is open. */
  connect() {
    const source = new EventSource("/v1/events");
    source.addEventListener("open", () => this.#refresh());
    source.addEventListener("error", () => this.#setConnected(false));
    source.addEventListener("video", (event) => this.put(JSON.parse(event.data)));
    source.addEventListener("deleted", (event) => this.drop(JSON.parse(event.data).id));
    source.addEventListener("preview", (event) => this.#preview(JSON.parse(event.data)));
    window.addEventListener("pagehide", () => source.close());
  }

  /** Take a video's newest state. */
  put(video) {
    this.#seen.add(video.id);
    this.videos.set(video.id, video);
    this.#tell();
  }

  /** Forget a video that was deleted. */
  drop(id) {
    this.#seen.add(id);
    this.videos.delete(id);
    this.previews.delete(id);
    if (this.chosen === id) this.chosen = null;
    this.#tell();
  }

  /** Show this video, or with null whatever is newest. */
  choose(id) {
    this.chosen = id;
    this.#tell();
  }

  /** Return the video to show, or undefined. */
  current() {
    return this.videos.get(this.chosen) ?? this.queue()[0] ?? this.finished()[0];
  }

  /** Return what is being made, then what waits, in order. */
  queue() {
    const place = (video) => (video.status === "in_progress" ? -1 : (video.queue_position ?? 0));
    return [...this.videos.values()]
      .filter(isWaiting)
      .sort((a, b) => place(a) - place(b) || a.created_at - b.created_at);
  }

  /** Return all others, the last that ended first. */
  finished() {
    const end = (video) => video.completed_at ?? video.created_at;
    return [...this.videos.values()].filter((video) => !isWaiting(video)).sort((a, b) => end(b) - end(a));
  }

  /** Fetch the page of videos after the last listed one that is still there. */
  async loadMore() {
    const after = this.#listed.findLast((id) => this.videos.has(id));
    try {
      this.#take(await api.list(after));
    } catch (error) {
      if (!after || error.status !== 404) throw error;
      this.drop(after); // it was deleted, and the event is on its way
      await this.loadMore();
    }
  }

  async #refresh() {
    this.#seen.clear();
    try {
      const page = await api.list();
      const listed = new Set(page.data.map((video) => video.id));
      for (const id of this.videos.keys()) {
        if (!listed.has(id) && !this.#seen.has(id)) this.videos.delete(id);
      }
      this.#listed = [];
      this.#take(page);
      this.#setConnected(true);
    } catch (error) {
      this.#setConnected(false, error.message);
    }
  }

  #take(page) {
    // An event that came meanwhile is newer than the list.
    for (const video of page.data) if (!this.#seen.has(video.id)) this.videos.set(video.id, video);
    this.#listed.push(...page.data.map((video) => video.id));
    this.more = page.has_more;
    this.#tell();
  }

  #preview(preview) {
    const steps = this.previews.get(preview.id) ?? [];
    const kept = steps.filter((other) => other.step < preview.step); // a resumed one starts over
    this.previews.delete(preview.id);
    this.previews.set(preview.id, [...kept, preview]);
    if (this.previews.size > MAX_PREVIEWS) this.previews.delete(this.previews.keys().next().value);
    this.dispatchEvent(new CustomEvent("preview", { detail: preview.id }));
  }

  #setConnected(connected, reason = "The server does not answer; trying again.") {
    if (this.connected === connected) return;
    this.connected = connected;
    this.dispatchEvent(new CustomEvent("connection", { detail: reason }));
  }

  /** Tell once of changes that came together. */
  #tell() {
    if (this.#told) return;
    this.#told = true;
    queueMicrotask(() => {
      this.#told = false;
      this.dispatchEvent(new Event("change"));
    });
  }
}

/** Whether a video is in the queue or being made. */
export const isWaiting = (video) => video.status === "queued" || video.status === "in_progress";
