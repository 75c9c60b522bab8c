/** A small part of Markdown, made into elements: what model cards use, and nothing that loads. */

import { h } from "./element.js";

const INLINE = /(`[^`]+`)|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|!\[([^\]]*)\]\([^)]*\)|\[([^\]]+)\]\(([^)\s]+)\)/;
const ROW = /^\s*\|(.*)\|\s*$/;
const ITEM = /^\s*(?:[-*+]|\d+[.)])\s+/;

/** Return the elements of a text; its first headings are of level `top`. */
export function markdown(text, top = 3) {
  const lines = text.replace(/^---\n[\s\S]*?\n---\n/, "").split(/\r?\n/);
  const elements = [];
  const state = { level: top - 1, top };
  while (lines.length > 0) {
    const element = block(lines, state);
    if (element) elements.push(element);
  }
  return elements;
}

/** Take the lines of one block; null for an empty line. */
function block(lines, state) {
  const line = lines[0];
  if (/^\s*$/.test(line)) return lines.shift() && null;
  if (line.startsWith("```")) return fence(lines);
  const heading = /^(#{1,6})\s+(.*)$/.exec(line);
  if (heading) return lines.shift() && title(heading, state);
  if (ROW.test(line)) return table(lines);
  if (ITEM.test(line)) return list(lines);
  const words = [lines.shift()];
  while (lines.length > 0 && /\S/.test(lines[0]) && !/^(#{1,6}\s|```)/.test(lines[0]) && !ROW.test(lines[0])) {
    words.push(lines.shift());
  }
  return h("p", {}, inline(words.join(" ")));
}

/** A heading is never more than one level below the one before: outlines have no gaps. */
function title([, marks, words], state) {
  state.level = Math.min(marks.length + state.top - 1, state.level + 1, 6);
  return h(`h${state.level}`, {}, inline(words));
}

function fence(lines) {
  lines.shift();
  const code = [];
  while (lines.length > 0 && !lines[0].startsWith("```")) code.push(lines.shift());
  lines.shift();
  return h("pre", { tabIndex: 0 }, h("code", {}, code.join("\n")));
}

function list(lines) {
  const ordered = /^\s*\d/.test(lines[0]);
  const items = [];
  while (lines.length > 0 && /\S/.test(lines[0])) {
    const line = lines.shift();
    if (ITEM.test(line)) items.push(line.replace(ITEM, ""));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return h(ordered ? "ol" : "ul", {}, items.map((item) => h("li", {}, inline(item))));
}

function table(lines) {
  const rows = [];
  while (lines.length > 0 && ROW.test(lines[0])) rows.push(ROW.exec(lines.shift())[1].split("|").map((cell) => cell.trim()));
  const ruled = rows[1]?.every((cell) => /^:?-+:?$/.test(cell));
  const head = ruled ? rows.shift() : [];
  if (ruled) rows.shift();
  return h("div", { class: "wide", tabIndex: 0, role: "group", "aria-label": "Table" },
    h("table", {},
      h("thead", {}, h("tr", {}, head.map((cell) => cell ? h("th", { scope: "col" }, inline(cell)) : h("td", {})))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell)))))),
    ),
  );
}

/** Return text with code, emphasis and links; a picture becomes its description. */
function inline(text) {
  const parts = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    parts.push(rest.slice(0, found.index), span(found));
    rest = rest.slice(found.index + found[0].length);
  }
  return [...parts, rest].filter((part) => part !== "");
}

function span([, code, strong, weak, picture, label, address]) {
  if (code) return h("code", {}, code.slice(1, -1));
  if (strong) return h("strong", {}, strong);
  if (weak) return h("em", {}, weak);
  if (label === undefined) return picture ? h("em", { class: "dim" }, `Picture: ${picture}`) : "";
  if (!/^https?:\/\//.test(address)) return label; // a page beside the card is not served
  return h("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, label);
}
