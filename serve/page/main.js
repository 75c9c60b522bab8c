/** The studio: joins the page's parts. What they show comes from the server alone. */

import { Actions } from "./actions.js";
import * as api from "./api.js";
import { Comparison } from "./comparison.js";
import { Composer } from "./composer.js";
import { showDevices } from "./devices.js";
import { h } from "./element.js";
import { Gallery } from "./gallery.js";
import { Library } from "./library.js";
import { showModels } from "./models.js";
import { attempt, notice } from "./notice.js";
import { Queue } from "./queue.js";
import { Shortcuts } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { restoreTheme, themeButton } from "./theme.js";
import { Unfinished } from "./unfinished.js";

const VIEWS = ["studio", "models", "devices"];
const TITLE = document.title;

restoreTheme();
const at = (id) => document.getElementById(id);
const library = new Library();
const composer = new Composer(at("composer"), library);
const actions = new Actions(library, composer, new Comparison());
const stage = new Stage(at("stage"), library, actions);
const gallery = new Gallery(at("gallery"), library, actions);
new Queue(at("queue"), library, actions);
new Unfinished(at("unfinished"), library);
const shortcuts = new Shortcuts({ library, composer, actions, stage, gallery });
const connection = h("p", { class: "connection", role: "status" });
at("tools").append(connection, shortcuts.button(), themeButton());

let models = [];

/** Show the view that the address names. */
function showView(moveFocus) {
  const name = VIEWS.find((each) => `#${each}` === location.hash) ?? "studio";
  for (const each of VIEWS) at(`view-${each}`).hidden = each !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name === "models") showModels(at("view-models"), models);
  if (name === "devices") showDevices(at("view-devices"));
  if (moveFocus) at(`view-${name}`).querySelector("h1")?.focus();
}

/** Say in the tab's title what is being made. */
function showTitle() {
  const [video] = library.queue();
  document.title = video?.status === "in_progress" ? `${Math.round(video.progress)} % · ${TITLE}` : TITLE;
}

const states = new Map(); // id -> status, to tell when a video is done

/** Say when a video that this page saw being made is done. */
function announce() {
  for (const video of library.videos.values()) {
    const before = states.get(video.id);
    states.set(video.id, video.status);
    if (before === undefined || before === video.status) continue;
    if (video.status === "completed") {
      notice(`Ready: ${video.prompt}`);
      composer.estimateAgain();
    }
    if (video.status === "failed") notice(video.error?.message ?? "The video failed.", true);
  }
}

library.addEventListener("change", showTitle);
library.addEventListener("change", announce);
library.addEventListener("connection", ({ detail }) => {
  connection.textContent = library.connected ? "" : detail;
  stage.render();
});
window.addEventListener("hashchange", () => showView(true));
showView(false);
models = (await attempt(api.models)) ?? [];
composer.offer(models);
if (location.hash === "#models") showModels(at("view-models"), models);
library.connect();
