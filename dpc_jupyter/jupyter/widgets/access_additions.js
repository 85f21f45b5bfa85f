// The forms that add a person or a group to the draft.
import { button, failure, h } from "./dom.js";
import { targetOf } from "./access_draft.js";
import { withoutKeys } from "./access_words.js";

const NEW = "new"; // the slot of what was refused here

/** `editor` is what firewall_editor.js gives to all its parts. */
export class Additions {
  #editor;
  #adding = null; // "person" or "group"

  constructor(editor) {
    this.#editor = editor;
  }

  render() {
    const { t, refusal } = this.#editor;
    const adding = this.#adding;
    const wrong = adding && refusal((slot) => slot === NEW);
    const start = (kind, label) =>
      button(label, () => this.#start(kind), { key: kind, "aria-expanded": adding === kind });
    return h("div", { key: "add", class: "dpc-fw-adding" },
      start("person", t("Add a person")),
      start("group", t("Add a group")),
      adding && h("form", { key: `new ${adding}`, class: "dpc-fw-new", onsubmit: (event) => this.#add(event) },
        adding === "person" && h("input", {
          key: "id", name: "node_id", class: "dpc-input dpc-mono dpc-fw-new-id", placeholder: "dpc-node-…",
          "aria-label": t("Node id"), required: true, autocomplete: "off", "aria-invalid": wrong ? "true" : null,
        }),
        h("input", {
          key: "name", name: "name", class: "dpc-input", placeholder: t("Name"), "aria-label": t("Name"),
          required: adding === "group", maxlength: "128", autocomplete: "off",
        }),
        button(t("Add"), null, { key: "go", type: "submit" }),
        failure(wrong && withoutKeys(wrong.sentence))));
  }

  #start(kind) {
    const { draft, draw, focus } = this.#editor;
    this.#adding = this.#adding === kind ? null : kind;
    draft.refused.delete(NEW);
    draw();
    focus(".dpc-fw-new input");
  }

  async #add(event) {
    event.preventDefault();
    const editor = this.#editor, { draft } = editor;
    const kind = this.#adding, { elements } = event.currentTarget;
    const [node_id, name] = [elements.node_id, elements.name].map((input) => input?.value.trim() ?? "");
    const target = targetOf(kind, kind === "person" ? node_id : name);
    const person = { kind, node_id, listed: true, ...(name && { name }) };
    const edit = kind === "group" ? { kind, name, allowed: true } : person;
    const slot = `${target}\nadd`;
    if (!(await draft.change(slot, edit))) {
      draft.refused.set(NEW, draft.refused.get(slot)); // there is no row of it to show it in
      draft.refused.delete(slot);
      return editor.draw();
    }
    this.#adding = null;
    editor.open = target;
    editor.draw();
    editor.focus(".dpc-fw-edit input");
  }
}
