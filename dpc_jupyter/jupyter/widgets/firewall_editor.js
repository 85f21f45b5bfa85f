// Who may use this machine: the access file as a table, and a draft of changes that nothing writes before Save.
import { copyText, h, toggle, update } from "./dom.js";
import { shortId } from "./format.js";
import { Calls, linkSentence } from "./client.js";
import { AccessDraft, targetOf, withEdits } from "./access_draft.js";
import { ownName } from "./access_words.js";
import { Additions } from "./access_additions.js";
import { Invitations } from "./access_invitations.js";
import { accessTable } from "./access_table.js";
import { RefusedRequests } from "./access_requests.js";
import { reviewBar } from "./access_review.js";
import { DryRun } from "./dry_run.js";

const SECTIONS = ["access", "pending", "invitations", "hosts", "link"];
const COPIED_FOR_MS = 1_500;
const SAID_FOR_MS = 15_000;

export function firewallEditor(el, client, t) {
  const prefix = `dpc-fw-${Math.random().toString(36).slice(2)}`; // a page may hold several views
  const lists = { people: `${prefix}-people`, models: `${prefix}-models` };
  const draft = new AccessDraft(client, draw);
  // What the parts of the editor share.
  const editor = {
    el, client, t, prefix, lists, draft, draw, say, saved, nameOf, idButton, refusal, focus,
    calls: new Calls(client, draw),
    now: null, // the access section with the draft on top; null where there is none, or no valid one
    open: null, // target of the row that is being edited
  };
  const additions = new Additions(editor);
  const invitations = new Invitations(editor);
  const requests = new RefusedRequests(editor);
  const dryRun = new DryRun(client, t, lists, draw);
  let said = ""; // what the last grant or Save came to
  let quiet = 0; // the timer that takes it away
  let placed = new Set(); // slots whose refusal is shown beside the control
  let copied = null; // an id
  let file = null;

  el.classList.add("dpc", "dpc-firewall-editor");
  const forget = client.onState((state, changed) => {
    if (changed.includes("access")) look(state.access);
    if (changed.some((section) => SECTIONS.includes(section))) draw();
  });
  const focusLeft = () => setTimeout(draw); // there is no onfocusout; and the focus is still on its way
  el.addEventListener("focusout", focusLeft);
  const clock = setInterval(draw, 30_000); // "3 min ago"
  look(client.state.access);
  draw();
  return () => {
    forget();
    clearInterval(clock);
    el.removeEventListener("focusout", focusLeft);
    clearTimeout(quiet);
    dryRun.dispose();
  };

  /** Follow the file. */
  function look(access) {
    if (!access || access.error) return;
    const before = file;
    file = fileOf(access);
    if (before === null || before === file) return;
    if (draft.entries.size && !draft.saving) {
      draft.stale = true;
      draft.recheck();
    }
    dryRun.explain();
  }

  function draw() {
    const { access } = client.state;
    const now = access && !access.error ? withEdits(access, draft.edits) : null;
    editor.now = now;
    placed = new Set();
    const body = now && [accessTable(editor), additions.render()];
    const elsewhere = now && [...draft.refused].filter(([slot]) => !placed.has(slot));
    update(el, [h("section", { class: "dpc-card", "aria-label": t("Who may use this machine") },
      h("h3", { class: "dpc-head" }, t("Who may use this machine"), now && sharingSwitch()),
      note("link", linkSentence(client, t)),
      !access && client.link === "live" && note("wait", t("Reading the access file…")),
      access?.error && broken(access),
      now && !access.sharing && note("off", t("Sharing is off: nobody can ask this machine.")),
      elsewhere?.map(([slot, { sentence }]) => h("p", { key: slot, class: "dpc-error", role: "alert" }, sentence)),
      body,
      now && invitations.render(),
      requests.render(),
      h("p", { key: "said", class: "dpc-fw-said", role: "status" }, said),
      now && dryRun.render(draft.entries.size > 0),
      now && draft.entries.size > 0 && reviewBar(editor),
      now && suggestions())]);
  }

  function note(key, text) {
    return text && h("p", { key, class: "dpc-fw-note" }, text);
  }

  function broken({ error, path }) {
    return h("div", { key: "broken", class: "dpc-fw-broken", role: "alert" },
      h("p", { class: "dpc-error" }, h("b", {}, t("The access file is not valid: nobody is let in.")), " ", error),
      note("mend", t("Mend it by hand: %1", path)),
      draft.entries.size > 0 && note("waiting", t("Your changes, which are not saved, wait until then.")));
  }

  function sharingSwitch() {
    const target = targetOf("sharing"), on = !editor.now.sharing;
    return h("span", { class: "dpc-fw-sharing" },
      draft.touches(target) && h("span", { key: "unsaved", class: "dpc-badge" }, t("not saved")),
      h("span", { key: "label", "aria-hidden": "true" }, t("Sharing")),
      toggle(t("Sharing"), !on, () =>
        draft.change(`${target}\non`, { kind: "sharing", on }, "", on === client.state.access.sharing)));
  }

  /** For the fields that take a person or a model. */
  function suggestions() {
    const models = [...new Set((client.state.hosts?.[0]?.models ?? []).map(({ model }) => model))];
    const { people } = editor.now;
    const names = people.map(ownName);
    const option = ({ node_id }, index) => {
      const name = names[index], unique = name && names.filter((each) => each === name).length === 1;
      return h("option", { key: node_id, value: unique ? name : node_id }, unique ? shortId(node_id) : name);
    };
    return h("div", { key: "lists", hidden: true },
      h("datalist", { id: lists.models }, models.map((value) => h("option", { key: value, value }))),
      h("datalist", { id: lists.people }, people.map(option)));
  }

  // --- what the parts share ----------------------------------------------------------------------------------------

  /** What the file says of it now. */
  function saved(kind, id) {
    const { everyone, groups, people } = client.state.access;
    if (kind === "everyone") return everyone;
    return kind === "group" ? groups.find(({ name }) => name === id) : people.find(({ node_id }) => node_id === id);
  }

  /** What somebody is called here; what is no known id stays as it is. */
  function nameOf(id) {
    const person = editor.now.people.find((each) => each.node_id === id);
    return (person && ownName(person)) || shortId(id);
  }

  function idButton(id) {
    const copy = async () => {
      copied = (await copyText(id)) ? id : null;
      draw();
      setTimeout(() => {
        copied = null;
        draw();
      }, COPIED_FOR_MS);
    };
    const props = { key: "id", type: "button", class: "dpc-fw-id dpc-mono", title: t("Copy %1", id), onclick: copy };
    return h("button", props, copied === id ? t("Copied") : shortId(id));
  }

  /** What was refused at a control that is shown. */
  function refusal(which) {
    const slot = [...draft.refused.keys()].find(which);
    placed.add(slot);
    return draft.refused.get(slot);
  }

  /** To where the keyboard goes on when its button has gone. */
  function focus(selector) {
    el.querySelector(selector)?.focus();
  }

  function say(sentence) {
    said = sentence;
    draw();
    clearTimeout(quiet);
    quiet = setTimeout(() => {
      said = "";
      draw();
    }, SAID_FOR_MS);
  }
}

/** Everything but what changes by use: whether the file itself is another one. */
function fileOf({ people, ...rest }) {
  return JSON.stringify([rest, people.map(({ tokens_today, expired, ...person }) => person)]);
}
