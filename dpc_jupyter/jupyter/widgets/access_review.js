// The bar of the unsaved draft: what it would write, and whether to.
import { button, failure, h } from "./dom.js";

const AROUND = 3; // lines
const LINES = { class: "dpc-fw-lines dpc-mono", tabindex: "0", role: "region" };
const CLASSES = { "+": "dpc-fw-plus", "-": "dpc-fw-minus" };

/** `editor` is what firewall_editor.js gives to all its parts. */
export function reviewBar(editor) {
  const { t, draft, client, draw, focus, say } = editor;
  const { lines, problem, gains, stale, entries } = draft;
  const refused = [...draft.refused.keys()].filter((slot) => slot.includes("\n")).length; // not what is being added
  const writes = lines?.some(isChange);
  const review = async () => {
    await draft.review();
    focus(".dpc-fw-lines");
  };
  const back = () => {
    draft.lines = null;
    draw();
    focus(".dpc-fw-draft button");
  };
  const discard = () => {
    draft.clear();
    draw();
    focus(".dpc-fw-more");
  };
  const save = async () => {
    if (await draft.save()) say(t("Saved."));
    draw();
    focus(".dpc-fw-more");
  };
  return h("div", { key: "draft", class: "dpc-fw-draft" },
    lines && h("div", { key: "review", class: "dpc-fw-review" },
      h("div", { class: "dpc-fact" },
        writes ? t("This will be written to %1:", client.state.access.path) : t("The file would stay as it is.")),
      h("div", { ...LINES, "aria-label": t("What will be written") },
        aroundChanges(lines, editor.nameOf).map(({ sign, text, place }) => place === undefined
          ? h("div", { class: CLASSES[sign] }, `${sign} ${text}`)
          : h("div", { class: "dpc-fw-gap" }, place ? `⋯ ${place}` : "⋯")))),
    failure(problem),
    lines && gains.length > 0 && h("div", { key: "gains", class: "dpc-fw-warning", role: "status" },
      "⚠ ", t("More than before would be open to: %1", gains.join(", "))),
    stale && h("div", { key: "stale", class: "dpc-fact" },
      t("The file has changed meanwhile; your changes go on top of it.")),
    h("div", { key: "bar", class: "dpc-fw-actions" },
      writes && !problem && !refused && button(t("Save"), save, { key: "save", class: "dpc-button dpc-primary" }),
      h("span", { key: "count", class: "dpc-grow", role: "status" },
        refused > 0 ? t("Not saved: correct what is refused above, or discard everything") : entries.size === 1 ? t("1 change, not saved") : t("%1 changes, not saved", entries.size)),
      button(t("Discard"), discard, { key: "discard" }),
      // Save does not take the place of Review, where a double click would hit it.
      lines ? button(t("Back"), back, { key: "back" }) : !refused && button(t("Review"), review, { key: "review" })));
}

const isChange = ({ sign }) => sign !== " ";

/**
 * Of a whole file's lines, those that change and some on either side. For what is left out between, a `place`: the keys
 * that the next change stands under, with `nameOf` people's ids; "" at the end.
 */
export function aroundChanges(lines, nameOf) {
  const near = (index) => lines.slice(Math.max(0, index - AROUND), index + AROUND + 1).some(isChange);
  return lines.flatMap((each, index) => {
    if (near(index)) return [each];
    if (index + 1 === lines.length) return [{ place: "" }];
    if (!near(index + 1)) return [];
    const change = lines.findIndex((line, at) => at > index && isChange(line));
    const keys = keysAbove(lines, change).map((key) => (key.startsWith("dpc-node-") ? nameOf(key) : key));
    return [{ place: keys.join(" › ") }];
  });
}

/** The keys whose values are around a line; the file is indented, as whoever wrote it liked. */
function keysAbove(lines, at) {
  const keys = [], { sign } = lines[at];
  let depth = lines[at].text.search(/\S/);
  for (let index = at - 1; index >= 0 && depth > 0; index--) {
    const { text } = lines[index], indent = text.search(/\S/);
    if (indent < 0 || indent >= depth || ![" ", sign].includes(lines[index].sign)) continue;
    depth = indent;
    const key = /^\s*"(.+)":\s*[[{]$/.exec(text);
    if (key) keys.unshift(key[1]);
  }
  return keys;
}
