// Requests that were refused, each with the click that lets its node in.
import { button, failure, h, mark } from "./dom.js";
import { ago } from "./format.js";
import { isLetIn, ownName } from "./access_words.js";

/** `editor` is what firewall_editor.js gives to all its parts. */
export class RefusedRequests {
  #editor;
  #held = []; // as they are shown

  constructor(editor) {
    this.#editor = editor;
  }

  render() {
    const { draw } = this.#editor;
    return h("div", {
      key: "pending", class: "dpc-fw-requests", onmouseleave: draw,
    }, this.#shown().map((each) => refusedRequest(this.#editor, each)));
  }

  /** Under the mouse or the keyboard nothing moves: a click must not meet somebody who has just come. */
  #shown() {
    const { el, client } = this.#editor;
    const list = el.querySelector(".dpc-fw-requests");
    const isHeld = list && (list.matches(":hover") || list.contains(el.ownerDocument.activeElement));
    const pending = client.state.pending ?? [];
    if (isHeld && this.#held.length) {
      const still = new Set(pending.map(({ node_id }) => node_id));
      return this.#held.map((each) => ({ ...each, gone: !still.has(each.node_id) }));
    }
    this.#held = pending;
    return pending;
  }
}

function refusedRequest(editor, { node_id, name, model, when, gone = false }) {
  const { t, calls, client, idButton } = editor;
  if (gone) return h("div", { key: `gone ${node_id}`, class: "dpc-row dpc-fw-pending dpc-away" }, idButton(node_id));
  const known = editor.now && editor.saved("person", node_id);
  const own = known && ownName(known), letIn = known && isLetIn(known, client.state.access);
  const onsubmit = (event) => grant(editor, event, node_id, model, letIn);
  const busy = calls.busy(node_id);
  return h("form", { key: node_id, class: "dpc-row dpc-fw-pending", onsubmit },
    mark("busy", t("refused")),
    h("span", { class: "dpc-grow" },
      own && [h("bdi", { key: "own", class: "dpc-name" }, own), " "], idButton(node_id), " ",
      !own && name && h("span", { key: "claimed", title: t("Anybody can choose any name.") },
        t("calls itself"), " “", h("bdi", {}, name), "”, "),
      t("asked for"), " ", h("bdi", { key: "model" }, model || t("any model")), " ", ago(when, t), ", ", t("refused"),
      failure(calls.error(node_id))),
    editor.now && !own && h("input", {
      key: "name", name: "name", class: "dpc-input dpc-fw-name", maxlength: "128", autocomplete: "off",
      placeholder: t("Your name for it"), "aria-label": t("Your name for %1", node_id),
    }),
    button(t("Dismiss"), () => calls.run(node_id, "dismiss", { node_id }), { key: "dismiss", busy }),
    editor.now && button(letIn ? t("Allow this model") : t("Allow for a week"), null, {
      key: "allow", type: "submit", class: "dpc-button dpc-primary", busy,
      title: letIn ? t("Its end date stays as it is")
        : t("Lets it use %1 until this day next week", model || t("all models")),
    }));
}

async function grant({ calls, say }, event, node_id, model, letIn) {
  event.preventDefault();
  const name = event.currentTarget.elements.name?.value.trim() || null; // never what the node calls itself
  const terms = { node_id, model: model || null, expires: letIn ? null : "7d", name };
  const granted = await calls.run(node_id, "allow", terms);
  if (granted?.sentence) say(granted.sentence);
}
