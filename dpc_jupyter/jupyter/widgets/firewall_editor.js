// Who may use this machine: the access file as a table, and a draft of changes that nothing writes before Save.
import { AccessDraft, aroundChanges, isChange, isSaved, LIMITS, withEdits } from "./access_draft.js";
import { DryRun } from "./dry_run.js";
import { checkbox, chipInput } from "./fields.js";
import { button, copyText, failure, h, mark, toggle, update } from "./dom.js";
import { ago, count, line, shortId } from "./format.js";
import { Calls, linkSentence } from "./client.js";

const NEW = "new"; // the slot of the forms that add somebody
const targetOf = (kind, id = "") => `${kind}\n${id}`;

/** Everything but what changes by use: whether the file itself is another one. */
function fileOf({ people, ...rest }) {
  return JSON.stringify([rest, people.map(({ tokens_today, expired, ...person }) => person)]);
}

export function firewallEditor(el, client, t) {
  const prefix = `dpc-fw-${Math.random().toString(36).slice(2)}`; // a page may hold several views
  const draft = new AccessDraft(client, draw);
  const calls = new Calls(client, draw);
  const lists = { people: `${prefix}-people`, models: `${prefix}-models` };
  const question = new DryRun(client, t, lists, draw);
  let held = []; // refused requests as they are shown
  let open = null; // target of the row that is being edited
  let adding = null; // "person" or "group"
  let said = ""; // what the last grant or Save came to
  let quiet = 0; // the timer that takes it away
  let placed = new Set(); // slots whose refusal is shown beside the control
  let copied = null;
  let file = null;
  let now = null; // the access section with the draft on top

  el.classList.add("dpc", "dpc-firewall-editor");
  const forget = client.onState((state, changed) => {
    if (changed.includes("access") && state.access && !state.access.error) {
      const is = fileOf(state.access);
      if (file !== null && is !== file) fileChanged();
      file = is;
    }
    if (changed.some((section) => ["access", "pending", "hosts", "link"].includes(section))) draw();
  });
  const focusLeft = () => setTimeout(draw); // there is no onfocusout; and the focus is still on its way
  el.addEventListener("focusout", focusLeft);
  const clock = setInterval(draw, 30_000); // "3 min ago"
  file = client.state.access && !client.state.access.error ? fileOf(client.state.access) : null;
  draw();
  return () => {
    forget();
    clearInterval(clock);
    el.removeEventListener("focusout", focusLeft);
    clearTimeout(quiet);
    question.dispose();
  };

  function fileChanged() {
    if (draft.entries.size && !draft.saving) {
      draft.stale = true;
      draft.recheck();
    }
    question.explain();
  }

  function draw() {
    const access = client.state.access;
    now = access && !access.error ? withEdits(access, draft.edits) : null;
    placed = new Set();
    const body = now && [table(), addForms()];
    update(el, [h("section", { class: "dpc-card", "aria-label": t("Who may use this machine") },
      h("h3", { class: "dpc-head" }, t("Who may use this machine"), now && sharingSwitch()),
      note("link", linkSentence(client, t)),
      !access && client.link === "live" && note("wait", t("Reading the access file…")),
      access?.error && broken(access),
      now && !access.sharing && note("off", t("Sharing is off: nobody can ask this machine.")),
      now && [...draft.refused].filter(([slot]) => !placed.has(slot)).map(([slot, { sentence }]) =>
        h("p", { key: slot, class: "dpc-error", role: "alert" }, sentence)),
      body,
      h("div", { key: "pending", class: "dpc-fw-requests", onmouseleave: draw },
        requests().map(pendingRow)),
      h("p", { key: "said", class: "dpc-fw-said", role: "status" }, said),
      now && question.render(draft.entries.size > 0),
      now && draft.entries.size > 0 && draftBar(),
      now && datalists())]);
  }

  function note(key, text) {
    return text && h("p", { key, class: "dpc-fw-note" }, text);
  }

  function broken(access) {
    const waiting = draft.entries.size > 0;
    return h("div", { key: "broken", class: "dpc-fw-broken", role: "alert" },
      h("p", { class: "dpc-error" }, h("b", {}, t("The access file is not valid: nobody is let in.")), " ", access.error),
      note("mend", t("Mend it by hand: %1", access.path)),
      waiting && note("waiting", t("Your changes, which are not saved, wait until then.")));
  }

  // --- the table ---------------------------------------------------------------------------------------------------

  function sharingSwitch() {
    const target = targetOf("sharing"), on = !now.sharing;
    return h("span", { class: "dpc-fw-sharing" },
      draft.touches(target) && h("span", { key: "unsaved", class: "dpc-badge" }, t("not saved")),
      h("span", { key: "label", "aria-hidden": "true" }, t("Sharing")),
      toggle(t("Sharing"), now.sharing, () =>
        draft.change(`${target}\non`, { kind: "sharing", on }, "", on === client.state.access.sharing)));
  }

  function table() {
    const heads = [t("Person or group"), t("Models"), t("Limits"), t("Until"), t("Today")];
    const tokens = new Map(now.people.map((person) => [person.node_id, person.tokens_today]));
    return h("table", { key: "table", class: "dpc-fw-table" },
      h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)), h("td"))),
      h("tbody", {},
        row({ kind: "everyone", id: "", entry: now.everyone, name: t("Everyone"), sub: t("holds for all below") }),
        now.groups.map((group) => row({
          kind: "group", id: group.name, entry: group, name: group.name,
          sub: group.members.map(nameOf).join(", ") || t("nobody yet"),
          until: group.allowed ? t("no end") : t("not let in"),
          today: group.members.reduce((sum, id) => sum + (tokens.get(id) ?? 0), 0),
        })),
        now.people.map((person) => row({
          kind: "person", id: person.node_id, entry: person, name: ownName(person),
          sub: personNote(person), until: untilText(person), today: person.tokens_today,
        }))));
  }

  function row({ kind, id, entry, name, sub, until = "", today = "" }) {
    const target = targetOf(kind, id), key = target, isOpen = open === target;
    const label = name || shortId(id);
    const fate = entry.removed ? t("removed") : !draft.touches(target) ? "" : saved(kind, id) ? t("changed") : t("new");
    const turn = () => {
      open = isOpen ? null : target;
      draw();
    };
    // A click anywhere opens the row; the last cell's button is the way by keyboard, and tells what it does.
    const onclick = (event) => {
      if (!event.target.closest("button") && getSelection().isCollapsed) turn();
    };
    return [
      h("tr", { key, class: `dpc-fw-row${entry.removed ? " dpc-fw-removed" : ""}${isOpen ? " dpc-fw-open" : ""}`, onclick },
        h("th", { scope: "row" },
          h("span", { class: "dpc-fw-who" }, name && h("bdi", { key: "name", class: "dpc-name" }, name),
            kind === "person" && idButton(id), fate && h("span", { key: "fate", class: "dpc-badge" }, fate)),
          sub && h("div", { key: "sub", class: "dpc-fact" }, sub)),
        h("td", {}, modelChips(entry)),
        h("td", { class: "dpc-fw-limits" }, limitsText(entry, kind)),
        h("td", { class: entry.expired ? "dpc-fw-ended" : null }, until),
        h("td", { class: "dpc-fw-today", "data-label": t("today") }, today === "" ? "" : count(today)),
        h("td", {}, h("button", {
          type: "button", class: "dpc-fw-more", "aria-expanded": isOpen, "aria-label": t("Edit %1", label), title: t("Edit"),
          onclick: turn,
        }, "⋯"))),
      isOpen && h("tr", { key: `${key}\nedit`, class: "dpc-fw-edit" },
        h("td", { colspan: "6" }, rowEditor(kind, id, entry, label))),
    ];
  }

  function idButton(id) {
    return h("button", {
      key: "id", type: "button", class: "dpc-fw-id dpc-mono", title: t("Copy %1", id),
      onclick: async () => {
        copied = (await copyText(id)) ? id : null;
        draw();
        setTimeout(() => {
          copied = null;
          draw();
        }, 1_500);
      },
    }, copied === id ? t("Copied") : shortId(id));
  }

  /** What the file says of it now. */
  function saved(kind, id) {
    const { everyone, groups, people } = client.state.access;
    if (kind === "everyone") return everyone;
    return kind === "group" ? groups.find(({ name }) => name === id) : people.find(({ node_id }) => node_id === id);
  }

  function ownName(person) {
    return person.name === person.node_id ? "" : person.name; // unnamed people go by their id
  }

  function nameOf(id) {
    const person = now.people.find((each) => each.node_id === id);
    return (person && ownName(person)) || shortId(id);
  }

  function isLetIn(person, { groups }) {
    const admits = ({ allowed, removed, members }) => allowed && !removed && members.includes(person.node_id);
    return !person.expired && (person.listed || groups.some(admits));
  }

  function personNote(person) {
    return line(person.groups.length && t("in %1", person.groups.join(", ")), person.legacy_ok && t("old D-PC Messenger"));
  }

  function untilText(person) {
    if (person.expired) return t("ended %1", dayText(person.expires));
    if (!isLetIn(person, now)) return t("not let in");
    return person.expires ? dayText(person.expires) : t("no end");
  }

  function modelChips({ models, groups }) {
    if (!models.length) return h("span", { class: "dpc-fact" }, groups?.length ? t("as its group") : t("all models"));
    const shown = models.length > 3 ? models.slice(0, 2) : models;
    return h("span", { class: "dpc-chips" }, shown.map((model) => h("bdi", { class: "dpc-chip", title: model }, model)),
      shown.length < models.length && h("span", { class: "dpc-chip", title: models.slice(2).join(", ") }, `+${models.length - 2}`));
  }

  function limitsText({ limits, groups }, kind) {
    const { running, queued, requests_per_minute, tokens_per_day } = limits;
    const parts = [
      running !== null && t("%1 at once", running),
      queued !== null && t("%1 waiting", queued),
      requests_per_minute !== null && t("%1 a minute", count(requests_per_minute)),
      tokens_per_day !== null && t("%1 tokens/day", tokensText(tokens_per_day)),
    ].filter(Boolean);
    // A line breaks between them only.
    if (parts.length) return line(parts.map((part) => part.replaceAll(" ", "\u00a0")));
    const from = kind === "everyone" ? t("the usual") : groups?.length ? t("as its group") : t("as everyone");
    return h("span", { class: "dpc-fact" }, from);
  }

  // --- one row's fields --------------------------------------------------------------------------------------------

  function rowEditor(kind, id, entry, label) {
    const target = targetOf(kind, id);
    const base = kind === "everyone" ? { kind } : kind === "group" ? { kind, name: id } : { kind, node_id: id };
    const change = (field, value, typed) =>
      draft.change(`${target}\n${field}`, { ...base, ...value }, typed, isSaved(saved(kind, id), value));
    const undo = button(t("Undo"), () => draft.undo(target), { key: "undo" });
    if (entry.removed) {
      return h("div", { class: "dpc-fw-actions" }, kind === "group" && entry.members.length
        ? t("%1 will let nobody in. Its members stay listed: D-PC Messenger may use them.", label)
        : t("%1 will be removed.", label), undo);
    }
    const set = (field) => (event) => change(field, { [field]: event.currentTarget.value.trim() }, event.currentTarget.value);
    const tick = (field) => (event) => change(field, { [field]: event.currentTarget.checked });
    return h("div", { class: "dpc-fw-fields", role: "group", "aria-label": t("Edit %1", label) },
      kind === "person" && field(target, "name", t("Name"), (props, shown) =>
        h("input", { ...props, class: "dpc-input", value: shown(entry.name), maxlength: "128", onchange: set("name") })),
      kind === "person" && field(target, "expires", t("Until"), (props, shown) => h("span", { class: "dpc-fw-until" },
        h("input", {
          ...props, class: "dpc-input", type: /^(\d{4}-\d\d-\d\d)?$/.test(entry.expires) ? "date" : "text",
          value: shown(entry.expires), title: t("The whole day still counts (UTC)."), onchange: set("expires"),
        }),
        button(t("A week"), () => change("expires", { expires: inAWeek() })),
        button(t("No end"), () => change("expires", { expires: "" })))),
      field(target, "models", t("Models"), (props) => chipInput(props, t, {
        items: entry.models, text: (model) => model, list: lists.models, add: t("add a model"),
        empty: entry.groups?.length ? t("as its group") : t("all models"),
        change: (models, typed) => change("models", { models }, typed),
      })),
      LIMITS.map((name) => field(target, `limits ${name}`, limitLabel(name), (props, shown) =>
        h("input", {
          ...props, class: "dpc-input", type: "number", min: name === "queued" || name === "tokens_per_day" ? "0" : "1", step: "1",
          placeholder: kind === "everyone" ? t("usual") : t("inherited"), value: shown(entry.limits[name] ?? ""),
          onchange: ({ currentTarget: { value, validity } }) => {
            if (validity.badInput || !Number.isSafeInteger(Number(value))) {
              return draft.refuse(`${target}\nlimits ${name}`, value, t("This must be a whole number."));
            }
            return change(`limits ${name}`, { limits: { [name]: value === "" ? null : Number(value) } }, value);
          },
        }))),
      kind === "group" && field(target, "member", t("Members"), (props) => chipInput(props, t, {
        items: entry.members, text: nameOf, list: lists.people, add: t("add by name or node id"), empty: t("nobody yet"),
        change: (members, typed) => changeMember(id, entry.members, members, typed),
      })),
      kind === "person" && now.groups.length > 0 && h("div", {
        key: "groups", class: "dpc-fw-field dpc-fw-wide", role: "group", "aria-label": t("Groups"),
      },
        h("span", { class: "dpc-fw-label" }, t("Groups")),
        h("span", { class: "dpc-fw-checks" }, now.groups.map(({ name }) => checkbox(name, entry.groups.includes(name), (event) =>
          member(name, id, event.currentTarget.checked))))),
      h("div", { key: "flags", class: "dpc-fw-wide dpc-fw-flags" },
        kind === "person" && checkbox(t("Let in by name, not only as a member of a group"), entry.listed, tick("listed")),
        kind === "group" && checkbox(t("Let this group in: %1 people", entry.members.length), entry.allowed, tick("allowed")),
        kind === "person" && checkbox(t("An old D-PC Messenger"), entry.legacy_ok, tick("legacy_ok")),
        entry.legacy_ok && h("span", { key: "warning", class: "dpc-fw-warning" }, "⚠ ",
          t("Without channel binding, as an old D-PC Messenger is, somebody in between could pass as it."))),
      h("div", { key: "actions", class: "dpc-fw-wide dpc-fw-actions" },
        kind !== "everyone" && button(kind === "group" ? t("Remove this group") : t("Remove this person"),
          () => remove(kind, id, base), { key: "remove" }),
        draft.touches(target) && undo));
  }

  /** A labelled control; what was typed and refused stays in it, with the reason below. */
  function field(target, name, label, control) {
    const slot = `${target}\n${name}`;
    const wrong = refusal((each) => each === slot || (name === "member" && each.startsWith(`${slot} `)));
    const id = `${prefix}-${name.replace(" ", "-")}`;
    const props = { id, "aria-invalid": wrong ? "true" : null, "aria-describedby": wrong ? `${id}-why` : null };
    const width = { models: "dpc-fw-wide", member: "dpc-fw-wide", expires: "dpc-fw-half", name: "dpc-fw-half" }[name] ?? "";
    return h("div", { key: slot, class: `dpc-fw-field ${width}` },
      h("label", { class: "dpc-fw-label", for: id }, label),
      control(props, (value) => (wrong ? wrong.typed : value)),
      wrong && h("div", { key: "why", id: `${id}-why`, class: "dpc-error", role: "alert" }, wrong.sentence));
  }

  /** What was refused at a control that is shown. */
  function refusal(which) {
    const slot = [...draft.refused.keys()].find(which);
    placed.add(slot);
    return draft.refused.get(slot);
  }

  function changeMember(group, before, after, typed) {
    const added = after.find((each) => !before.includes(each));
    if (added === undefined) return member(group, before.find((each) => !after.includes(each)), false);
    const named = now.people.filter((person) => person.name === added);
    return member(group, named.length === 1 ? named[0].node_id : added, true, typed);
  }

  function member(group, id, on, typed) {
    const was = saved("group", group)?.members.includes(id) ?? false;
    const edit = { kind: "group", name: group, members: on ? { add: [id] } : { remove: [id] } };
    return draft.change(`${targetOf("group", group)}\nmember ${id}`, edit, typed, was === on);
  }

  async function remove(kind, id, base) {
    const target = targetOf(kind, id);
    await draft.undo(target);
    if (kind === "person") draft.forget((slot) => slot.endsWith(`\nmember ${id}`));
    if (saved(kind, id)) await draft.change(`${target}\nremove`, { ...base, remove: true });
    else {
      open = null;
      await draft.recheck();
    }
    focus(open ? ".dpc-fw-edit button" : ".dpc-fw-more");
  }

  function limitLabel(name) {
    return {
      running: t("Requests at once"), queued: t("Waiting requests"),
      requests_per_minute: t("Requests a minute"), tokens_per_day: t("Tokens a day"),
    }[name];
  }

  // --- new people and groups ---------------------------------------------------------------------------------------

  function addForms() {
    const start = (kind) => () => {
      adding = adding === kind ? null : kind;
      draft.refused.delete(NEW);
      draw();
      el.querySelector(".dpc-fw-new input")?.focus();
    };
    const wrong = adding && refusal((slot) => slot === NEW);
    return h("div", { key: "add", class: "dpc-fw-adding" },
      button(t("Add a person"), start("person"), { key: "person", "aria-expanded": adding === "person" }),
      button(t("Add a group"), start("group"), { key: "group", "aria-expanded": adding === "group" }),
      adding && h("form", { key: `new ${adding}`, class: "dpc-fw-new", onsubmit: addOne },
        adding === "person" && h("input", {
          key: "id", name: "node_id", class: "dpc-input dpc-mono dpc-fw-new-id", placeholder: "dpc-node-…",
          "aria-label": t("Node id"), required: true, autocomplete: "off", "aria-invalid": wrong ? "true" : null,
        }),
        h("input", {
          key: "name", name: "name", class: "dpc-input", placeholder: t("Name"), "aria-label": t("Name"),
          required: adding === "group", maxlength: "128", autocomplete: "off",
        }),
        button(t("Add"), null, { key: "go", type: "submit" }),
        failure(wrong?.sentence)));
  }

  async function addOne(event) {
    event.preventDefault();
    const { node_id, name } = Object.fromEntries([...new FormData(event.currentTarget)].map(([key, value]) => [key, value.trim()]));
    const kind = adding, target = targetOf(kind, kind === "person" ? node_id : name);
    const edit = kind === "group" ? { kind, name, allowed: true } : { kind, node_id, listed: true, ...(name && { name }) };
    const slot = `${target}\nadd`;
    if (!(await draft.change(slot, edit))) {
      draft.refused.set(NEW, draft.refused.get(slot)); // there is no row of it to show it in
      draft.refused.delete(slot);
      return draw();
    }
    adding = null;
    open = target;
    draw();
    focus(".dpc-fw-edit input");
  }

  // --- refused requests --------------------------------------------------------------------------------------------

  /** Who asked. Under the mouse or the keyboard nothing moves: a click must not meet somebody who has just come. */
  function requests() {
    const list = el.querySelector(".dpc-fw-requests");
    const isHeld = list && (list.matches(":hover") || list.contains(el.ownerDocument.activeElement));
    const pending = client.state.pending ?? [];
    if (isHeld && held.length) {
      const still = new Set(pending.map(({ node_id }) => node_id));
      return held.map((each) => ({ ...each, gone: !still.has(each.node_id) }));
    }
    held = pending;
    return held;
  }

  function pendingRow({ node_id, name, model, when, gone = false }) {
    if (gone) return h("div", { key: `gone ${node_id}`, class: "dpc-row dpc-fw-pending dpc-away" }, idButton(node_id));
    const known = now && saved("person", node_id);
    const own = known && ownName(known), letIn = known && isLetIn(known, client.state.access);
    return h("form", { key: node_id, class: "dpc-row dpc-fw-pending", onsubmit: (event) => grant(event, node_id, model, letIn) },
      mark("busy", t("refused")),
      h("span", { class: "dpc-grow" },
        own && [h("bdi", { key: "own", class: "dpc-name" }, own), " "], idButton(node_id), " ",
        !own && name && h("span", { key: "claimed", title: t("Anybody can choose any name.") },
          t("calls itself"), " “", h("bdi", {}, name), "”, "),
        t("asked for"), " ", h("bdi", { key: "model" }, model || t("any model")), " ", ago(when, t), ", ", t("refused"),
        failure(calls.error(node_id))),
      now && !own && h("input", {
        key: "name", name: "name", class: "dpc-input dpc-fw-name", maxlength: "128", autocomplete: "off",
        placeholder: t("Your name for it"), "aria-label": t("Your name for %1", node_id),
      }),
      button(t("Dismiss"), () => calls.run(node_id, "dismiss", { node_id }), { key: "dismiss", busy: calls.busy(node_id) }),
      now && button(letIn ? t("Allow this model") : t("Allow for a week"), null, {
        key: "allow", type: "submit", class: "dpc-button dpc-primary", busy: calls.busy(node_id),
        title: letIn ? t("Its end date stays as it is") : t("Lets it use %1 until this day next week", model || t("all models")),
      }));
  }

  async function grant(event, node_id, model, letIn) {
    event.preventDefault();
    const name = event.currentTarget.elements.name?.value.trim() || null; // never what the node calls itself
    const granted = await calls.run(node_id, "allow", { node_id, model: model || null, expires: letIn ? null : "7d", name });
    if (granted?.sentence) say(granted.sentence);
  }

  // --- the draft ---------------------------------------------------------------------------------------------------

  function draftBar() {
    const { lines, problem, stale, entries } = draft;
    return h("div", { key: "draft", class: "dpc-fw-draft" },
      lines && h("div", { key: "review", class: "dpc-fw-review" },
        h("div", { class: "dpc-fact" },
          lines.some(isChange) ? t("This will be written to %1:", client.state.access.path) : t("The file would stay as it is.")),
        h("div", { class: "dpc-fw-lines dpc-mono", tabindex: "0", role: "region", "aria-label": t("What will be written") },
          aroundChanges(lines).map(({ sign, text }) =>
            h("div", { class: { "+": "dpc-fw-plus", "-": "dpc-fw-minus" }[sign] }, `${sign} ${text}`)))),
      failure(problem),
      lines && draft.gains.length > 0 && h("div", { key: "gains", class: "dpc-fw-warning", role: "status" },
        "⚠ ", t("More than before would be open to: %1", draft.gains.join(", "))),
      stale && h("div", { key: "stale", class: "dpc-fact" }, t("The file has changed meanwhile; your changes go on top of it.")),
      h("div", { key: "bar", class: "dpc-fw-actions" },
        lines?.some(isChange) && !problem && button(t("Save"), save, { key: "save", class: "dpc-button dpc-primary" }),
        h("span", { key: "count", class: "dpc-grow", role: "status" },
          entries.size === 1 ? t("1 change, not saved") : t("%1 changes, not saved", entries.size)),
        button(t("Discard"), discard, { key: "discard" }),
        // Save does not take the place of Review, where a double click would hit it.
        lines ? button(t("Back"), back, { key: "back" }) : button(t("Review"), review, { key: "review" })));
  }

  /** To where the keyboard goes on when its button has gone. */
  function focus(selector) {
    el.querySelector(selector)?.focus();
  }

  async function review() {
    await draft.review();
    focus(".dpc-fw-lines");
  }

  function back() {
    draft.lines = null;
    draw();
    focus(".dpc-fw-draft button");
  }

  function discard() {
    draft.clear();
    draw();
    focus(".dpc-fw-more");
  }

  async function save() {
    if (await draft.save()) say(t("Saved."));
    draw();
    focus(".dpc-fw-more");
  }

  function say(sentence) {
    said = sentence;
    draw();
    clearTimeout(quiet);
    quiet = setTimeout(() => {
      said = "";
      draw();
    }, 15_000);
  }

  function datalists() {
    const models = [...new Set((client.state.hosts?.[0]?.models ?? []).map(({ model }) => model))];
    const names = now.people.map(ownName);
    return h("div", { key: "lists", hidden: true },
      h("datalist", { id: lists.models }, models.map((value) => h("option", { key: value, value }))),
      h("datalist", { id: lists.people }, now.people.map((person) => {
        const name = ownName(person), unique = name && names.filter((each) => each === name).length === 1;
        return h("option", { key: person.node_id, value: unique ? name : person.node_id }, unique ? shortId(person.node_id) : name);
      })));
  }
}

/** 50000 -> "50k" */
function tokensText(tokens) {
  return tokens && tokens % 1000 === 0 ? `${count(tokens / 1000)}k` : count(tokens);
}

function inAWeek() {
  return new Date(Date.now() + 7 * 86_400_000).toISOString().slice(0, 10);
}

/** `2027-01-31` as `Sun 31 Jan 2027`; what is no date stays as it is. */
function dayText(expires) {
  const when = new Date(expires), date = expires.length === 10;
  if (Number.isNaN(when.getTime())) return expires;
  const year = when.getUTCFullYear() === new Date().getUTCFullYear() ? undefined : "numeric";
  const rest = date ? { timeZone: "UTC" } : { hour: "2-digit", minute: "2-digit" };
  return when.toLocaleString(undefined, { weekday: "short", day: "numeric", month: "short", year, ...rest });
}
