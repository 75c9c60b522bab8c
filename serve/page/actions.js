/** What can be done with a video, whichever part of the page asks. */

import * as api from "./api.js";
import { confirm } from "./dialog.js";
import { attempt, notice } from "./notice.js";

/** The page's actions on videos of a library. */
export class Actions {
  constructor(library, composer, comparison) {
    this.library = library;
    this.composer = composer;
    this.comparison = comparison;
  }

  /** Show a video, and bring it into view where the page is narrow. */
  show(video) {
    this.library.choose(video.id);
    document.getElementById("stage").scrollIntoView({ block: "nearest" });
  }

  remix = (video) => this.composer.startRemix(video);

  reuse = (video) => this.composer.fill(video);

  compare = (video) => this.comparison.toggle(video);

  async pin(video) {
    const answer = await attempt(() => api.pin(video.id, !video.pinned));
    if (answer?.status) this.library.put(answer);
  }

  async move(video, position) {
    await attempt(() => api.move(video.id, Math.max(0, position)));
  }

  async cancel(video) {
    const answer = await attempt(() => api.cancel(video.id));
    if (answer?.status) this.library.put(answer);
  }

  async remove(video) {
    if (!(await confirm("Delete this video? This cannot be undone.", "Delete"))) return;
    if (await attempt(() => api.remove(video.id))) {
      this.library.drop(video.id);
      notice("Deleted.");
    }
  }

  async copy(video) {
    try {
      await navigator.clipboard.writeText(video.command);
      notice("Command copied.");
    } catch {
      // Browsers keep the clipboard from pages that come over plain HTTP from another machine.
      const code = document.getElementById("command");
      if (code) window.getSelection().selectAllChildren(code);
      notice("The command is selected: copy it with your keyboard.");
    }
  }
}
