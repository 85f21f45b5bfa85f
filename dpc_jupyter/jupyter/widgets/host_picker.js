// Pick a compute host, and one of its models, for this notebook.
import { arrowKeys, button, connectForm, failure, h, idBeside, mark, update } from "./dom.js";
import { absenceFacts, hostDetails, hostState, line, linkFacts, modelFacts, queueFacts } from "./format.js";
import { Calls, linkSentence } from "./client.js";
import { hubSearch } from "./hub_search.js";

const MODELS_SHOWN = 4;

/** Fills `el`. A choice also fires "dpc-chosen" at `el`: a popup may close. */
export function hostPicker(el, client, t) {
  const calls = new Calls(client, render);
  const unfolded = new Set();
  let connecting = false;

  const top = h("div");
  const search = h("input", {
    type: "search", class: "dpc-input", placeholder: t("Search hosts and models"),
    "aria-label": t("Search hosts and models"), autocomplete: "off", spellcheck: "false",
    oninput: render, onkeydown: searchKey,
  });
  const list = h("div", {
    class: "dpc-list", role: "radiogroup", "aria-label": t("Compute host and model"), onkeydown: typeAhead,
  });
  const note = h("div", { class: "dpc-note", role: "status" });
  const hub = h("div");
  const settle = arrowKeys(list);
  const words = () => search.value.trim();
  const atHub = hubSearch(hub, { client, calls, t, words, linked: focusHost });
  el.classList.add("dpc", "dpc-host-picker");
  el.replaceChildren(h("div", { class: "dpc-card", role: "group", "aria-label": t("Pick a compute host") },
    top, h("div", { class: "dpc-search" }, search), list, note, hub));

  function render() {
    const { hosts } = client.state;
    const found = matches();
    update(top, [
      h("h3", { class: "dpc-head" }, t("Pick a compute host"),
        button("+", toggleConnect, { class: "dpc-plus", "aria-label": t("Connect to a host"),
          title: t("Connect to a host"), "aria-expanded": connecting })),
      connecting && connectForm(calls, t, toggleConnect),
    ]);
    update(list, found.map(row));
    const none = hosts && !found.length && t("No host and no model is called “%1”.", words());
    update(note, [linkSentence(client, t) || (hosts ? none : t("Looking for hosts…"))]);
    settle();
    atHub.render();
  }

  function row([host, models]) {
    const { chosen } = client.state;
    const here = chosen?.id === host.id;
    const away = host.state === "unreachable";
    const busy = calls.busy(host.id);
    const shown = unfolded.has(host.id) ? models : folded(models, here && chosen.model);
    const id = idBeside(host.name, host.id);
    const rest = models.length - shown.length;
    const facts = line(linkFacts(host), queueFacts(host, t), absenceFacts(host, t));
    return h("div", { key: host.id, class: `dpc-row${here ? " dpc-here" : ""}${away ? " dpc-away" : ""}`, role: "group",
      "aria-label": line(host.name, id && id.textContent, hostState(host, t), facts), "aria-busy": busy || null },
      mark(host.state, hostState(host, t)),
      h("div", { class: "dpc-grow" },
        h("div", { class: "dpc-line" },
          choice("dpc-name", h("bdi", {}, host.name), host, null, {
            away, title: [t("Ask %1, its first model", host.name), hostDetails(host)].filter(Boolean).join("\n") }), id,
          h("span", { class: "dpc-fact" }, busy ? t("linking…") : facts),
          here && h("span", { class: "dpc-badge" }, t("this notebook"))),
        shown.length > 0 && h("div", { class: "dpc-chips" },
          shown.map((model) => choice("dpc-chip",
            [h("bdi", {}, model.model), modelFacts(model, t).map((fact) => ` · ${fact}`)],
            host, model.model, { away, key: model.model, title: line(model.model, model.provider) })),
          rest > 0 && button(`+${rest}`, (event) => unfold(host.id, event), {
            key: "more", class: "dpc-item dpc-chip", tabindex: -1,
            "aria-label": t("+%1 more models of %2", rest, host.name) })),
        failure(calls.error(host.id))),
      away && button(t("Retry"), () => calls.run(host.id, "connect", { address: host.id, name: null }), {
        busy, class: "dpc-item dpc-button", tabindex: -1, "aria-label": t("Retry %1", host.name) }));
  }

  // Tab reaches one item of the list (arrowKeys sees to it), so all are given -1.
  function choice(className, content, host, model, { away, ...props }) {
    const { chosen } = client.state;
    return h("button", { type: "button", class: `dpc-item ${className}`, role: "radio", tabindex: -1,
      "aria-checked": chosen?.id === host.id && (chosen.model ?? null) === model, "aria-disabled": away || null,
      onclick: () => away || choose(host.id, model), ...props }, content);
  }

  // Each word must be in the name of the host or in what is said of the model.
  function matches() {
    const each = words().toLowerCase().split(/\s+/);
    const has = (text) => each.every((word) => text.toLowerCase().includes(word));
    return (client.state.hosts ?? []).flatMap((host) => {
      const name = line(host.name, linkFacts(host));
      if (has(name)) return [[host, host.models]];
      const models = host.models.filter((model) => has(line(name, model.model, model.provider, modelFacts(model, t))));
      return models.length ? [[host, models]] : [];
    });
  }

  async function choose(host, model) {
    if (!(await calls.run(host, "choose", { host, model }))) return;
    el.dispatchEvent(new CustomEvent("dpc-chosen", { bubbles: true }));
  }

  function unfold(id, event) {
    const chips = event.currentTarget.parentNode;
    const at = chips.children.length - 1;
    unfolded.add(id);
    render();
    chips.children[at].focus();
  }

  function focusHost(id) {
    const at = matches().findIndex(([host]) => host.id === id);
    (list.querySelectorAll(".dpc-row")[at]?.querySelector(".dpc-item") ?? search).focus();
  }

  function toggleConnect() {
    connecting = !connecting;
    calls.forget("connect");
    render();
    top.querySelector(connecting ? "input" : ".dpc-plus").focus();
  }

  function searchKey(event) {
    if (event.key === "ArrowDown") list.querySelector('.dpc-item[tabindex="0"]')?.focus();
    else if (event.key === "Enter") {
      const found = matches();
      const [host, models] = found.find(([each]) => each.state !== "unreachable") ?? [];
      if (!found.length) atHub.find();
      else if (host && words()) choose(host.id, models.length < host.models.length ? models[0].model : null);
    } else if (event.key === "Escape" && search.value) {
      search.value = "";
      render();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function typeAhead(event) {
    const { key, ctrlKey, metaKey, altKey } = event;
    if (key.length === 1 && key !== " " && !ctrlKey && !metaKey && !altKey) search.focus();
  }

  const stop = client.onState((_, changed) => {
    if (changed.some((section) => ["hosts", "chosen", "node", "link"].includes(section))) render();
  });
  render();
  return stop;
}

function folded(models, chosenModel) {
  if (models.length <= MODELS_SHOWN) return models;
  const first = models.slice(0, MODELS_SHOWN - 1);
  const chosen = models.slice(MODELS_SHOWN - 1).filter((each) => each.model === chosenModel);
  return [...first, ...chosen];
}
