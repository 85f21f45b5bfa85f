// Invitations: a form that makes a line to send, and those that are still open.
import { button, copyText, failure, h } from "./dom.js";
import { line } from "./format.js";

const PLACE = "invite"; // of the call, and of what went wrong with it

/** `editor` is what firewall_editor.js gives to all its parts. */
export class Invitations {
  #editor;
  #asking = false;
  #made = null; // the last one's line, until it is put away: nobody can show it again
  #copied = "";

  constructor(editor) {
    this.#editor = editor;
  }

  render() {
    const { t, client, calls } = this.#editor;
    const open = client.state.invitations ?? [];
    const toggle = () => this.#toggle();
    return h("div", { key: "invitations", class: "dpc-fw-invitations", "aria-label": t("Invitations"), role: "group" },
      h("div", { key: "start", class: "dpc-fw-adding" },
        button(t("Invite somebody"), toggle, { key: "invite", "aria-expanded": this.#asking }),
        this.#asking && this.#form(),
        failure(calls.error(PLACE))),
      this.#made && this.#line(),
      open.map((each) => this.#open(each)));
  }

  #form() {
    const { t, lists, now, calls } = this.#editor;
    const labelled = (label, control) => h("label", { key: label }, h("span", { class: "dpc-fw-label" }, label), control);
    const field = (name, label, more) =>
      labelled(label, h("input", { name, class: "dpc-input", autocomplete: "off", ...more }));
    const groups = now.groups.map(({ name }) => h("option", { key: name, value: name }, name));
    return h("form", { key: "form", class: "dpc-fw-new dpc-fw-invite", onsubmit: (event) => this.#make(event) },
      field("name", t("Your name for who joins"), { required: true, maxlength: "128" }),
      field("models", t("Models, commas between"), { list: lists.models, placeholder: t("all") }),
      groups.length > 0 && labelled(t("Group"), h("select", { name: "group", class: "dpc-input" },
        h("option", { key: " ", value: "" }, t("none")), groups)),
      field("expires", t("For how long: 12h, 7d, a date, never"), { value: "7d" }),
      button(t("Make the line"), null, {
        key: "go", type: "submit", class: "dpc-button dpc-primary", busy: calls.busy(PLACE) }));
  }

  #line() {
    const { t } = this.#editor;
    const copy = async () => {
      this.#copied = (await copyText(this.#made.line)) ? t("Copied") : t("Copy it by hand");
      this.#editor.draw();
    };
    const away = () => {
      this.#made = null;
      this.#editor.draw();
      this.#editor.focus(".dpc-fw-invitations button");
    };
    const [before, ...after] = this.#made.sentences.map((text, index) =>
      h("p", { key: `said ${index}`, class: "dpc-fw-note" }, text));
    return h("div", { key: "made", class: "dpc-fw-made", role: "status" },
      before,
      h("div", { key: "line", class: "dpc-row" },
        h("input", { key: "text", class: "dpc-input dpc-mono dpc-grow", readonly: true, value: this.#made.line,
          "aria-label": t("The line to send"), onfocus: (event) => event.currentTarget.select() }),
        button(this.#copied || t("Copy"), copy, { key: "copy", class: "dpc-button dpc-primary" }),
        button(t("Put away"), away, { key: "away" })),
      after);
  }

  #open({ id, name, models, group, permission, until }) {
    const { t, calls } = this.#editor;
    const place = `${PLACE} ${id}`;
    const what = models.join(", ") || (group ? t("what its group may") : t("all models"));
    const terms = line(what, group && t("in %1", group), permission, t("the line works until %1", until));
    return h("div", { key: id, class: "dpc-row dpc-fw-pending" },
      h("span", { class: "dpc-grow" },
        t("Invited:"), " ", h("bdi", { class: "dpc-name" }, name), " ",
        h("span", { class: "dpc-fact" }, terms),
        failure(calls.error(place))),
      button(t("Revoke"), () => this.#revoke(place, id), {
        key: "revoke", busy: calls.busy(place), "aria-label": t("Revoke the invitation for %1", name) }));
  }

  #toggle() {
    const { calls, draw, focus } = this.#editor;
    this.#asking = !this.#asking;
    calls.forget(PLACE);
    draw();
    if (this.#asking) focus(".dpc-fw-invite input");
  }

  async #make(event) {
    event.preventDefault();
    const { calls, draw, focus } = this.#editor, { elements } = event.currentTarget;
    const [name, models, group, expires] = ["name", "models", "group", "expires"].map(
      (each) => elements[each]?.value.trim() ?? "");
    const terms = { name, models: models ? [models] : [], group: group || null, expires: expires || null };
    const made = await calls.run(PLACE, "invite", terms);
    if (!made?.line) return;
    [this.#made, this.#asking, this.#copied] = [made, false, ""];
    draw();
    focus(".dpc-fw-made button");
  }

  async #revoke(place, id) {
    const { calls, say, focus } = this.#editor;
    const done = await calls.run(place, "revoke_invitation", { invite_id: id });
    if (!done?.sentence) return;
    if (this.#made?.id === id) this.#made = null;
    say(done.sentence);
    focus(".dpc-fw-invitations button");
  }
}
