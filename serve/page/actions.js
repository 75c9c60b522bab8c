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

  pin = (video) => this.#change(() => api.pin(video.id, !video.pinned));

  move = (video, position) => attempt(() => api.move(video.id, Math.max(0, position)));

  cancel = (video) => this.#change(() => api.cancel(video.id));

  async #change(ask) {
    const answer = await attempt(ask);
    if (answer) this.library.put(answer);
  }

  async remove(video) {
    if (!(await confirm("Delete this video? This cannot be undone.", video.prompt, "Delete"))) return;
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
      await this.show(video); // its command is on the stage then
      const code = document.getElementById("command");
      if (code) window.getSelection().selectAllChildren(code);
      notice("The command is selected: copy it with your keyboard.");
    }
  }
}
