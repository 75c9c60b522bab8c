/** A small picture of a video in the gallery; it plays while it is pointed at or has the focus. */

import * as api from "./api.js";
import { button, h } from "./element.js";
import { ago } from "./format.js";
import { player } from "./screen.js";

/** Return a list item for a video that is finished, cancelled or failed. */
export function card(video, actions, settings) {
  const done = video.status === "completed";
  const picture = h("span", { class: "picture" }, done ? thumbnail(video) : h("span", { class: "empty" }, video.status));
  picture.style.aspectRatio = video.size.replace("x", " / ");
  const open = h(
    "button",
    {
      type: "button", class: "open", "aria-label": `Show: ${video.prompt}`,
      "aria-current": settings.current ? "true" : null, onclick: () => actions.show(video),
    },
    picture,
  );
  open.dataset.id = video.id;
  const item = h(
    "li",
    { class: "card" },
    open,
    h("p", { class: "prompt", title: video.prompt }, video.prompt),
    h("p", { class: "dim" }, `${video.size.replace("x", "×")} · ${ago(video.completed_at ?? video.created_at)}`),
    done ? h("div", { class: "corner" },
      button("compare", `Compare: ${video.prompt}`, () => actions.compare(video), { quiet: true, "aria-pressed": String(settings.compared) }),
      button("pin", `Pin: ${video.prompt}`, () => actions.pin(video), { quiet: true, "aria-pressed": String(video.pinned) }),
    ) : null,
  );
  if (done) playWhilePointedAt(item, picture, video);
  return item;
}

function thumbnail(video) {
  return h("img", {
    src: api.content(video.id, { variant: "thumbnail" }), alt: "", loading: "lazy",
    class: parseInt(video.size) < 256 ? "pixels" : null,
  });
}

function playWhilePointedAt(item, picture, video) {
  let playing = null;
  const start = () => {
    if (playing) return;
    playing = player(video, { autoplay: true });
    picture.append(playing);
  };
  const stop = () => {
    if (item.matches(":hover, :focus-within")) return;
    playing?.remove();
    playing = null;
  };
  item.addEventListener("pointerenter", start);
  item.addEventListener("focusin", start);
  item.addEventListener("pointerleave", stop);
  item.addEventListener("focusout", () => setTimeout(stop));
}
