/** Short messages at the foot of the page, read aloud by screen readers. */

import { h } from "./element.js";

/** Say something for some seconds; `failed` stays longer and looks like it. */
export function notice(text, failed = false) {
  const line = h("p", { class: failed ? "notice failed" : "notice" }, text);
  document.getElementById("notices").append(line);
  setTimeout(() => line.remove(), failed ? 9000 : 4000);
}

/** Do what asks the server; where it refuses, say why. Returns its answer, or undefined. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice(error.message, true);
    return undefined;
  }
}
