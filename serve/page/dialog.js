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

/** Ask before something that cannot be undone; resolves to true or false. */
export function confirm(question, yes) {
  return new Promise((resolve) => {
    const answer = (value) => () => {
      dialog.returnValue = value;
      dialog.close();
    };
    const dialog = open(
      question,
      { class: "small" },
      h(
        "footer",
        {},
        h("button", { type: "button", class: "plain", autofocus: true, onclick: answer("") }, "Keep"),
        h("button", { type: "button", class: "danger", onclick: answer("yes") }, yes),
      ),
    );
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}
