// The fields of one row: everyone's, a group's or a person's terms.
import { button, h } from "./dom.js";
import { isSaved, LIMITS, targetOf } from "./access_draft.js";
import { limitLabel, withoutKeys } from "./access_words.js";
import { checkbox, chipInput } from "./fields.js";

const WIDTHS = { models: "dpc-fw-wide", member: "dpc-fw-wide", expires: "dpc-fw-half", name: "dpc-fw-half" };
const CAN_BE_NOUGHT = ["queued", "tokens_per_day"];

/** `editor` is what firewall_editor.js gives to all its parts; `label` is what the row is called. */
export function rowFields(editor, kind, id, entry, label) {
  const { t, draft, now, lists } = editor;
  const target = targetOf(kind, id);
  const base = { everyone: { kind }, group: { kind, name: id }, person: { kind, node_id: id } }[kind];
  const change = (name, value, typed) =>
    draft.change(`${target}\n${name}`, { ...base, ...value }, typed, isSaved(editor.saved(kind, id), value));
  const set = (name) => ({ currentTarget: { value } }) => change(name, { [name]: value.trim() }, value);
  const tick = (name) => ({ currentTarget: { checked } }) => change(name, { [name]: checked });
  const undo = button(t("Undo"), () => draft.undo(target), { key: "undo" });
  if (entry.removed) {
    const stay = kind === "group" && entry.members.length > 0;
    return h("div", { class: "dpc-fw-actions" }, stay
      ? t("%1 will let nobody in. Its members stay listed: D-PC Messenger may use them.", label)
      : t("%1 will be removed.", label), undo);
  }

  const nameField = () => field(editor, target, "name", t("Name"), (props, shown) =>
    h("input", { ...props, class: "dpc-input", value: shown(entry.name), maxlength: "128", onchange: set("name") }));

  const untilField = () => field(editor, target, "expires", t("Until"), (props, shown) =>
    h("span", { class: "dpc-fw-until" },
      h("input", {
        ...props, class: "dpc-input", type: /^(\d{4}-\d\d-\d\d)?$/.test(entry.expires) ? "date" : "text",
        value: shown(entry.expires), title: t("The whole day still counts (UTC)."), onchange: set("expires"),
      }),
      button(t("A week"), () => change("expires", { expires: inAWeek() })),
      button(t("No end"), () => change("expires", { expires: "" }))));

  const modelsField = () => field(editor, target, "models", t("Models"), (props) => chipInput(props, t, {
    items: entry.models, text: (model) => model, list: lists.models, add: t("add a model"),
    empty: entry.groups?.length ? t("as its group") : t("all models"),
    change: (models, typed) => change("models", { models }, typed),
  }));

  const limitField = (name) => field(editor, target, `limits ${name}`, limitLabel(name, t), (props, shown) =>
    h("input", {
      ...props, class: "dpc-input", type: "number", min: CAN_BE_NOUGHT.includes(name) ? "0" : "1", step: "1",
      placeholder: kind === "everyone" ? t("usual") : t("inherited"), value: shown(entry.limits[name] ?? ""),
      onchange: ({ currentTarget: { value, validity } }) => {
        if (validity.badInput || !Number.isSafeInteger(Number(value))) {
          return draft.refuse(`${target}\nlimits ${name}`, value, t("This must be a whole number."));
        }
        return change(`limits ${name}`, { limits: { [name]: value === "" ? null : Number(value) } }, value);
      },
    }));

  const membersField = () => field(editor, target, "member", t("Members"), (props) => chipInput(props, t, {
    items: entry.members, text: editor.nameOf, list: lists.people, add: t("add by name or node id"),
    empty: t("nobody yet"), change: (members, typed) => changeMembers(editor, id, entry.members, members, typed),
  }));

  const groupsField = () => h("div", {
    key: "groups", class: "dpc-fw-field dpc-fw-wide", role: "group", "aria-label": t("Groups"),
  },
    h("span", { class: "dpc-fw-label" }, t("Groups")),
    h("span", { class: "dpc-fw-checks" }, now.groups.map(({ name }) =>
      checkbox(name, entry.groups.includes(name), ({ currentTarget: { checked } }) =>
        changeMember(editor, name, id, checked)))));

  const flags = () => h("div", { key: "flags", class: "dpc-fw-wide dpc-fw-flags" },
    kind === "person" && checkbox(t("Let in by name, not only as a member of a group"), entry.listed, tick("listed")),
    kind === "group" &&
      checkbox(t("Let this group in: %1 people", entry.members.length), entry.allowed, tick("allowed")),
    kind === "person" && checkbox(t("An old D-PC Messenger"), entry.legacy_ok, tick("legacy_ok")),
    entry.legacy_ok && h("span", { key: "warning", class: "dpc-fw-warning" }, "⚠ ",
      t("Without channel binding, as an old D-PC Messenger is, somebody in between could pass as it.")));

  return h("div", { class: "dpc-fw-fields", role: "group", "aria-label": t("Edit %1", label) },
    kind === "person" && [nameField(), untilField()],
    modelsField(),
    LIMITS.map(limitField),
    kind === "group" && membersField(),
    kind === "person" && now.groups.length > 0 && groupsField(),
    flags(),
    h("div", { key: "actions", class: "dpc-fw-wide dpc-fw-actions" },
      kind !== "everyone" && button(kind === "group" ? t("Remove this group") : t("Remove this person"),
        () => remove(editor, kind, id, base), { key: "remove" }),
      draft.touches(target) && undo));
}

/** A labelled control; what was typed and refused stays in it, with the reason below. */
function field(editor, target, name, label, control) {
  const slot = `${target}\n${name}`;
  const wrong = editor.refusal((each) => each === slot || (name === "member" && each.startsWith(`${slot} `)));
  const id = `${editor.prefix}-${name.replace(" ", "-")}`;
  const props = { id, "aria-invalid": wrong ? "true" : null, "aria-describedby": wrong ? `${id}-why` : null };
  return h("div", { key: slot, class: `dpc-fw-field ${WIDTHS[name] ?? ""}` },
    h("label", { class: "dpc-fw-label", for: id }, label),
    control(props, (value) => (wrong ? wrong.typed : value)),
    wrong && h("div", { key: "why", id: `${id}-why`, class: "dpc-error", role: "alert" }, withoutKeys(wrong.sentence)));
}

function changeMembers(editor, group, before, after, typed) {
  const added = after.find((each) => !before.includes(each));
  if (added === undefined) return changeMember(editor, group, before.find((each) => !after.includes(each)), false);
  const named = editor.now.people.filter((person) => person.name === added);
  return changeMember(editor, group, named.length === 1 ? named[0].node_id : added, true, typed);
}

function changeMember({ draft, saved }, group, id, on, typed) {
  const was = saved("group", group)?.members.includes(id) ?? false;
  const edit = { kind: "group", name: group, members: on ? { add: [id] } : { remove: [id] } };
  return draft.change(`${targetOf("group", group)}\nmember ${id}`, edit, typed, was === on);
}

async function remove(editor, kind, id, base) {
  const { draft, saved } = editor;
  const target = targetOf(kind, id);
  await draft.undo(target);
  if (kind === "person") draft.forget((slot) => slot.endsWith(`\nmember ${id}`));
  if (saved(kind, id)) await draft.change(`${target}\nremove`, { ...base, remove: true });
  else {
    editor.open = null;
    await draft.recheck();
  }
  editor.focus(editor.open ? ".dpc-fw-edit button" : ".dpc-fw-more");
}

function inAWeek() {
  return new Date(Date.now() + 7 * 86_400_000).toISOString().slice(0, 10);
}
