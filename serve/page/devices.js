/** The view of devices, and of what was measured on them. */

import * as api from "./api.js";
import { h } from "./element.js";
import { attempt } from "./notice.js";

/** Ask the server for its devices and draw them. */
export async function showDevices(view) {
  const status = h("p", { class: "dim", role: "status" }, "Asking the server…");
  view.replaceChildren(h("h1", { tabIndex: -1 }, "Devices"), status);
  const answer = await attempt(api.devices);
  if (!answer) return;
  status.replaceWith( // the heading stays, it has the focus
    h("ul", { class: "devices" }, answer.devices.map(device)),
    h("h2", {}, "Measured on this machine"),
    answer.measured?.length
      ? measurements(answer.measured)
      : h("p", { class: "dim" }, "Nothing yet: the first video, or hb-run --tune, measures."),
  );
}

function device({ name, description, available, reason }) {
  return h("li", { class: available ? "panel device" : "panel device off" },
    h("h2", {}, name, h("span", { class: "badge" }, available ? "Available" : "Not available")),
    description && description !== name ? h("p", {}, h("code", {}, description)) : null,
    reason ? h("p", { class: "dim" }, reason) : null,
  );
}

/** Return a table of records; which columns there are, the records say. */
function measurements(records) {
  const columns = [...new Set(records.flatMap((record) => Object.keys(record)))];
  return h("div", { class: "wide panel", tabIndex: 0, role: "group", "aria-label": "Measurements" },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, heading(name))))),
      h("tbody", {}, records.map((record) => h("tr", {}, columns.map((name) => cell(name, record[name]))))),
    ),
  );
}

function heading(name) {
  const words = name.replace(/_bytes$/, ", MB").replace(/_s$/, ", s").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

function cell(name, value) {
  if (typeof value !== "number") return h("td", {}, value === null || value === undefined ? "–" : plain(value));
  const shown = name.endsWith("_bytes") ? Math.round(value / 1e6) : Number(value.toPrecision(4));
  return h("td", { class: "number" }, shown.toLocaleString("en"));
}

const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value)).replace(/[{}"]/g, "");
