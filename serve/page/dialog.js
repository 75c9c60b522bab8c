/** Dialogs: the browser's own, which keep the focus and close with Escape. */

import { button, h } from "./element.js";

/** Open a dialog over the page; it is gone once closed. */
export function open(title, settings, ...children) {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title", ...settings },
    h(
      "header",
      {},
      h("h2", { id: "dialog-title" }, title),
      button("close", "Close", () => dialog.close(), { quiet: true, key: "Esc" }),
    ),
    ...children,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask before something that cannot be undone; `about` says of what. Resolves to true or false. */
export function confirm(question, about, yes) {
  const dialog = open(
    question,
    { class: "small" },
    h("p", { class: "prompt" }, about),
    h(
      "form",
      { method: "dialog" },
      h("button", { class: "plain", autofocus: true }, "Keep"),
      h("button", { class: "danger", value: "yes" }, yes),
    ),
  );
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}
