// The access file as a table: everyone, groups, people, each with a row that opens to be edited.
import { h } from "./dom.js";
import { count, line, shortId } from "./format.js";
import { targetOf } from "./access_draft.js";
import { limitsText, ownName, untilText } from "./access_words.js";
import { rowFields } from "./access_row.js";

/** `editor` is what firewall_editor.js gives to all its parts. */
export function accessTable(editor) {
  const { t, now, nameOf } = editor;
  const heads = [t("Person or group"), t("Models"), t("Limits"), t("Until"), t("Today")];
  const tokens = new Map(now.people.map((person) => [person.node_id, person.tokens_today]));
  const group = (entry) => ({
    kind: "group", id: entry.name, entry, name: entry.name,
    sub: entry.members.map(nameOf).join(", ") || t("nobody yet"),
    until: entry.allowed ? t("no end") : t("not let in"),
    today: entry.members.reduce((sum, id) => sum + (tokens.get(id) ?? 0), 0),
  });
  const person = (entry) => ({
    kind: "person", id: entry.node_id, entry, name: ownName(entry),
    sub: line(entry.groups.length && t("in %1", entry.groups.join(", ")), entry.legacy_ok && t("old D-PC Messenger")),
    until: untilText(entry, now, t), today: entry.tokens_today,
  });
  const everyone = {
    kind: "everyone", id: "", entry: now.everyone, name: t("Everyone"), sub: t("holds for all below"),
    until: "", today: null,
  };
  const rows = [everyone, ...now.groups.map(group), ...now.people.map(person)];
  return h("table", { key: "table", class: "dpc-fw-table" },
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)), h("td"))),
    h("tbody", {}, rows.map((each) => accessRow(editor, each))));
}

function accessRow(editor, { kind, id, entry, name, sub, until, today }) {
  const { t, draft } = editor;
  const target = targetOf(kind, id), isOpen = editor.open === target;
  const label = name || shortId(id);
  const isOld = editor.saved(kind, id);
  const fate = entry.removed ? t("removed") : !draft.touches(target) ? "" : isOld ? t("changed") : t("new");
  const turn = () => {
    editor.open = isOpen ? null : target;
    editor.draw();
  };
  // A click anywhere opens the row; the last cell's button is the way by keyboard, and tells what it does.
  const onclick = (event) => {
    if (!event.target.closest("button") && getSelection().isCollapsed) turn();
  };
  const classes = `dpc-fw-row${entry.removed ? " dpc-fw-removed" : ""}${isOpen ? " dpc-fw-open" : ""}`;
  return [
    h("tr", { key: target, class: classes, onclick },
      h("th", { scope: "row" },
        h("span", { class: "dpc-fw-who" }, name && h("bdi", { key: "name", class: "dpc-name" }, name),
          kind === "person" && editor.idButton(id), fate && h("span", { key: "fate", class: "dpc-badge" }, fate)),
        sub && h("div", { key: "sub", class: "dpc-fact" }, sub)),
      h("td", {}, modelChips(entry, t)),
      h("td", { class: "dpc-fw-limits" }, limitsText(entry.limits, t) || usual(limitsFrom(kind, entry, t))),
      h("td", { class: entry.expired ? "dpc-fw-ended" : null }, until === t("no end") ? usual(until) : until),
      h("td", { class: "dpc-fw-today", "data-label": t("today") }, today === 0 ? usual("0") : today && count(today)),
      h("td", {}, h("button", {
        type: "button", class: "dpc-fw-more", "aria-expanded": isOpen, "aria-label": t("Edit %1", label), onclick: turn,
      }, t("Edit")))),
    isOpen && h("tr", { key: `${target}\nedit`, class: "dpc-fw-edit" },
      h("td", { colspan: "6" }, rowFields(editor, kind, id, entry, label))),
  ];
}

/** What nobody has set or done: quieter, and left out where there is no room. */
function usual(text) {
  return h("span", { class: "dpc-fact" }, text);
}

function modelChips({ models, groups }, t) {
  if (!models.length) return usual(groups?.length ? t("as its group") : t("all models"));
  const shown = models.length > 3 ? models.slice(0, 2) : models;
  const rest = models.slice(shown.length);
  return h("span", { class: "dpc-chips" },
    shown.map((model) => h("bdi", { class: "dpc-chip", title: model }, model)),
    rest.length > 0 && h("span", { class: "dpc-chip", title: rest.join(", ") }, `+${rest.length}`));
}

function limitsFrom(kind, { groups }, t) {
  return kind === "everyone" ? t("the usual") : groups?.length ? t("as its group") : t("as everyone");
}
