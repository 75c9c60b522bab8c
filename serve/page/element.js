/** Elements are built by hand: no text from a server or a file is ever parsed as HTML. */

/** Return a new element. Strings become attributes, `onclick` and its like listeners. */
export function h(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value !== "string" && name in element) element[name] = value;
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Make `items` the children of a list. Those in place are not touched, and the focus stays at its place. */
export function arrange(list, items) {
  const focused = document.activeElement;
  const place = [...list.children].findIndex((item) => item.contains(focused));
  const kept = new Set(items);
  for (const item of [...list.children]) if (!kept.has(item)) item.remove();
  items.forEach((item, index) => {
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
  });
  if (place < 0 || items.length === 0) return;
  if (!list.contains(focused) || !focused.checkVisibility()) refocus(items[Math.min(place, items.length - 1)], focused);
  else if (document.activeElement !== focused) focused.focus(); // its item was moved
}

/** Focus the control of `root` that has the name of one that is gone, else the first. */
export function refocus(root, gone) {
  const controls = [...root.querySelectorAll("button, a, [tabindex]")].filter((each) => each.checkVisibility());
  (controls.find((each) => each.dataset.name === gone.dataset.name) ?? controls[0])?.focus();
}

const SHAPES = {
  play: "M4 5l8 7-8 7zM16 5v14M20 5v14",
  loop: "M4 11a7 7 0 0 1 12.5-4L19 9.500M19 4v5.500h-5.500M20 13a7 7 0 0 1-12.500 4L5 14.500M5 20v-5.500h5.500",
  pin: "M9 4h6l-1 6 4 4H6l4-4zM12 14v6",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  remix: "M3 7h4l10 10h4M3 17h4l3-3M14 10l3-3h4M18 4l3 3-3 3M18 14l3 3-3 3",
  trash: "M5 7h14M10 4h4M7 7l1 13h8l1-13M10 11v5M14 11v5",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  close: "M6 6l12 12M18 6L6 18",
  dice: "M5 5h14v14H5zM9 9h.01M12 12h.01M15 15h.01",
  theme: "M12 4a8 8 0 1 0 8 8 6 6 0 0 1-8-8z",
  reuse: "M4 8h9M19 8h1M4 16h1M11 16h9M16 5v6M8 13v6",
  help: "M9 9.500a3 3 0 1 1 4.500 2.500c-1 .6-1.500 1-1.500 2.500M12 18h.01",
};

/** Return a drawing; what it means is said by its button. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

/** Return a button with an icon and words; `settings.quiet` shows the icon alone. */
export function button(name, words, onclick, settings = {}) {
  const { quiet, key, ...rest } = settings;
  const title = key ? `${words} (${key})` : words;
  const label = quiet ? { "aria-label": words } : {};
  return h(
    "button",
    { type: "button", class: quiet ? "quiet" : "plain", "data-name": name, title, onclick, ...label, ...rest },
    icon(name),
    quiet ? null : h("span", {}, words),
  );
}
