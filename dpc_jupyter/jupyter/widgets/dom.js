// What views are built from: `h` makes elements, `update` morphs what is shown into what should be; and a few parts.
import { shortId } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "polyline"]);
const GIVEN = Symbol("given");

/**
 * An element. Children may be nodes, text, numbers, nested arrays; null, false and "" are left out.
 *
 * Props are attributes, but: `on*` are handlers (as properties: only these survive a morph), `key` tells `update` which
 * element is which, `html` is HTML that somebody else has sanitized. false and null leave an attribute out (aria-*:
 * only null).
 */
export function h(tag, props, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  node.append(...present(children));
  give(node, props ?? {});
  return node;
}

/**
 * Make `nodes` the children of `container`, in place: an element that is there already (the same node; the same key;
 * or, without one, the next of its tag) stays and is changed only where the props differ from those it was given last.
 * So focus, caret, scroll, open details and half-typed values survive. Hold no element that came out of `h` and went
 * through `update`: the one on the page may be another (use event.currentTarget, or query for it).
 */
export function update(container, nodes) {
  const wanted = present(nodes).map((each) => (each instanceof Node ? each : document.createTextNode(each)));
  const own = new Set(wanted);
  const pool = new Map();
  for (const old of container.childNodes) {
    if (!own.has(old)) pool.set(kindOf(old), [...(pool.get(kindOf(old)) ?? []), old]);
  }
  const placeOf = (node) => (node.parentNode === container ? node : (pool.get(kindOf(node))?.shift() ?? node));
  const places = wanted.map(placeOf);
  for (const rest of pool.values()) rest.forEach((old) => old.remove());
  const focused = container.getRootNode().activeElement;
  let cursor = container.firstChild;
  places.forEach((place, index) => {
    // Moving an element takes its focus: move the others instead.
    if (focused && place.parentNode === container && place.contains(focused)) {
      for (let next; cursor !== place; cursor = next) {
        next = cursor.nextSibling;
        container.append(cursor);
      }
    }
    if (place === cursor) cursor = cursor.nextSibling;
    else container.insertBefore(place, cursor);
    if (place !== wanted[index]) morph(place, wanted[index]);
  });
}

function present(children) {
  return children.flat(Infinity).filter((child) => child || child === 0);
}

function kindOf(node) {
  return `${node.nodeName} ${node[GIVEN]?.key ?? ""}`;
}

function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  const props = fresh[GIVEN] ?? {};
  if (!("html" in props)) update(old, [...fresh.childNodes]);
  give(old, props);
}

function give(node, props) {
  const before = node[GIVEN] ?? {};
  for (const name of Object.keys({ ...before, ...props })) {
    const value = props[name];
    if (value === before[name] || name === "key") continue;
    if (name.startsWith("on")) node[name] = value ?? null;
    else if (name === "html") node.innerHTML = value ?? "";
    else {
      const flag = typeof value === "boolean" && !name.startsWith("aria-");
      if (value == null || (flag && !value)) node.removeAttribute(name);
      else node.setAttribute(name, flag ? "" : value);
      if (name === "checked" || name === "selected") node[name] = Boolean(value);
      if (name === "value" && !isBeingTyped(node, before.value)) node.value = value ?? "";
    }
  }
  node[GIVEN] = props;
}

function isBeingTyped(node, given) {
  return node.getRootNode().activeElement === node && node.value !== String(given ?? "");
}

// Parts.

/** The dot before a host or a node: state "ready", "busy", "known" or "unreachable" is told by its shape, too. */
export function mark(state, text) {
  return h("span", { class: `dpc-mark dpc-mark-${state}`, role: "img", "aria-label": text, title: text });
}

/** Beside a peer's name: any other node may bear it too, or one that looks like it; none has the same id. */
export function idBeside(name, id) {
  const short = shortId(id);
  return id !== "local" && name !== short && h("span", { key: "id", class: "dpc-fact dpc-beside", title: id }, short);
}

/** Why something failed, in place. */
export function failure(text) {
  return text && h("p", { key: "failure", class: "dpc-error", role: "alert" }, text);
}

/** An on/off switch. Without its key, a button that comes before it would take its element, and the focus with it. */
export function toggle(label, on, onclick, description = null) {
  return h("button", { key: label, type: "button", class: "dpc-switch", role: "switch", "aria-checked": Boolean(on),
    "aria-label": label, "aria-description": description, onclick });
}

/** A push button; `busy` is said and shown, but takes no focus away as `disabled` would. */
export function button(label, onclick, { busy = false, ...props } = {}) {
  return h("button", { type: "button", class: "dpc-button", "aria-disabled": busy || null, onclick, ...props }, label);
}

/**
 * Arrow keys in a list that stays: up and down go from one .dpc-row to the next, left and right along its .dpc-item
 * elements; Tab finds one of them only. Returns what to call after each update of the list.
 */
export function arrowKeys(list) {
  const items = (row) => [...row.querySelectorAll(".dpc-item")];
  const stop = (item) => {
    for (const other of list.querySelectorAll('.dpc-item[tabindex="0"]')) other.tabIndex = -1;
    if (item) item.tabIndex = 0;
  };
  list.addEventListener("focusin", (event) => event.target.matches(".dpc-item") && stop(event.target));
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest(".dpc-item");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...list.querySelectorAll(".dpc-row")].filter((row) => items(row).length);
    const row = item.closest(".dpc-row");
    const [at, along] = [rows.indexOf(row), items(row).indexOf(item)];
    const next = {
      ArrowDown: () => items(rows[at + 1] ?? row)[0],
      ArrowUp: () => items(rows[at - 1] ?? row)[0],
      ArrowRight: () => items(row)[along + 1],
      ArrowLeft: () => items(row)[along - 1],
      Home: () => items(rows[0])[0],
      End: () => items(rows.at(-1))[0],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    next()?.focus();
  });
  return () => {
    if (!list.querySelector('.dpc-item[tabindex="0"]')) {
      stop(list.querySelector('.dpc-item[aria-checked="true"]') ?? list.querySelector(".dpc-item"));
    }
  };
}

/** Whether the text is on the clipboard now; navigator.clipboard is missing on plain http, and may be refused. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const area = h("textarea", { style: "position: fixed; opacity: 0", value: text, readonly: true });
    document.body.append(area);
    area.select();
    const done = document.execCommand?.("copy") ?? false;
    area.remove();
    before?.focus();
    return done;
  }
}

/** Connects to a host by its address; `done` gets the peer. */
export function connectForm(calls, t, done) {
  const busy = calls.busy("connect");
  const submit = async (event) => {
    event.preventDefault();
    const { address, name } = event.currentTarget.elements;
    const params = { address: address.value.trim(), name: name.value.trim() || null };
    const peer = await calls.run("connect", "connect", params);
    if (peer) done(peer);
  };
  return h("form", { key: "connect", class: "dpc-form", onsubmit: submit, "aria-label": t("Connect to a host") },
    h("input", { name: "address", class: "dpc-input dpc-mono", required: true, placeholder: t("Address, name or invitation"),
      spellcheck: "false", autocomplete: "off", "aria-label": t("The dpc:// address or the invitation that its owner sent you, or the name of a host you met before") }),
    h("div", { class: "dpc-fields" },
      h("input", { name: "name", class: "dpc-input", placeholder: t("Name, if you like"), autocomplete: "off",
        "aria-label": t("What you call that machine") }),
      button(busy ? t("Connecting…") : t("Connect"), null, {
        type: "submit", busy, class: "dpc-button dpc-primary" })),
    failure(calls.error("connect")));
}
