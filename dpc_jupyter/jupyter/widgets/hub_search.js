// Hosts that the hub shows. It is asked when somebody says so, and not while somebody types.
import { arrowKeys, button, failure, h, idBeside, mark, update } from "./dom.js";
import { line } from "./format.js";

const FIND = "find"; // of the call, and of what went wrong with it
const NAMES_SHOWN = 4;

/** Fills `el` where the node has a hub. `words` tells what to look for; `linked` is told the id of a host that was. */
export function hubSearch(el, { client, calls, t, words, linked }) {
  let asked = ""; // the words that `found` is for
  let found = null;
  const done = new Set(); // those that were linked from here, though a host may have no models for us yet
  const settle = arrowKeys(el);

  function render() {
    if (asked !== words()) {
      found = null;
      calls.forget(FIND);
    }
    const { node, hosts = [] } = client.state;
    const has = new Set(hosts.filter(({ state }) => state === "ready" || state === "busy").map(({ id }) => id));
    const shown = (found ?? []).filter(({ id }) => !has.has(id) && !done.has(id));
    update(el, node?.hub ? [
      h("div", { key: "ask", class: "dpc-hub-ask" },
        button(words() ? t("Find “%1” at the hub", words()) : t("Find hosts at the hub"), find, {
          busy: calls.busy(FIND), title: t("Hub: %1", node.hub) }),
        h("span", { class: "dpc-fact", role: "status" }, says(shown))),
      failure(calls.error(FIND)),
      shown.length > 0 && h("div", { key: "found", class: "dpc-list", role: "list",
        "aria-label": t("Found at the hub, by its word") }, shown.map(row)),
    ] : []);
    settle();
  }

  function says(shown) {
    if (calls.busy(FIND)) return t("asking the hub…");
    if (!found) return "";
    if (shown.length) return t("found at the hub, by its word");
    return found.length ? t("You are linked to all that it shows you.")
      : t("It shows you nobody such. Hosts are found by those whom they let in.");
  }

  function row({ id, name, models }) {
    const busy = calls.busy(placeOf(id));
    const more = models.length - NAMES_SHOWN;
    const names = models.slice(0, NAMES_SHOWN).map((model, index) => [index > 0 && " · ", h("bdi", {}, model)]);
    return h("div", { key: id, class: "dpc-row", role: "listitem", "aria-busy": busy || null },
      mark("known", t("not linked")),
      h("div", { class: "dpc-grow" },
        h("div", { class: "dpc-line" }, h("bdi", { class: "dpc-name" }, name), idBeside(name, id)),
        h("div", { class: "dpc-fact", title: line(models) }, names, more > 0 && ` · +${more}`),
        failure(calls.error(placeOf(id)))),
      button(busy ? t("Connecting…") : t("Connect"), () => connect(id), {
        busy, class: "dpc-item dpc-button", tabindex: -1, "aria-label": t("Connect to %1", name) }));
  }

  async function find() {
    if (!client.state.node?.hub || calls.busy(FIND)) return;
    asked = words();
    const nodes = await calls.run(FIND, "find", { words: asked });
    if (!Array.isArray(nodes)) return;
    done.clear();
    found = nodes;
    render();
  }

  async function connect(id) {
    if (!(await calls.run(placeOf(id), "connect", { address: id, name: null }))) return;
    done.add(id);
    render();
    linked(id);
  }

  return { render, find };
}

// A host that was met before stands in the list above, too, and fails there by itself.
function placeOf(id) {
  return `hub ${id}`;
}
