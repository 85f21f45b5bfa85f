// This node at a glance: who it is, whom it may ask, whom it lets in, and what runs.
import { arrowKeys, button, connectForm, copyText, failure, h, idBeside, mark, toggle, update } from "./dom.js";
import { absenceFacts, count, hostDetails, hostState, line, linkFacts, queueFacts } from "./format.js";
import { requestProgress, shortId, tokensPerSecond } from "./format.js";
import { Calls, linkSentence } from "./client.js";

const PLOT = { width: 90, height: 22 };
const COPIED_MS = 2_000;
const SPANS = [[1, "1 day"], [7, "7 days"], [30, "30 days"], [null, "Ever"]];

export function nodePanel(el, client, t) {
  const calls = new Calls(client, () => render(Object.keys(draws)));
  let connecting = false;
  let copied = null; // "yes", "no": where no clipboard is to be had
  let copiedTimer = null;
  let usage = null;
  let days = 7;

  const link = h("div", { class: "dpc-note", role: "status" });
  const cards = Object.fromEntries([["node", t("This node")], ["hosts", t("Compute hosts")], ["now", t("Now")]].map(
    ([name, label]) => [name, h("div", { class: "dpc-card", role: "group", "aria-label": label })]));
  const hostsTop = h("div");
  const hostList = h("div", {
    class: "dpc-list", role: "radiogroup", "aria-label": t("Compute host of this notebook"),
  });
  const settle = arrowKeys(hostList);
  cards.hosts.append(hostsTop, hostList);
  const running = h("div");
  const today = h("div");
  cards.now.append(h("h3", { class: "dpc-head" }, t("Now")), running, today);
  el.classList.add("dpc", "dpc-node-panel");
  el.replaceChildren(link, ...Object.values(cards));

  // Which part shows which sections: tokens flow every second, and the hosts need no look at them.
  const parts = [
    [["link"], () => update(link, [linkSentence(client, t)])],
    [["node"], drawNode],
    [["hosts", "chosen"], drawHosts],
    [["requests", "rate"], drawRunning],
    [["today"], drawToday],
  ];
  const draws = Object.fromEntries(parts.flatMap(([sections, draw]) => sections.map((section) => [section, draw])));

  function render(sections) {
    for (const draw of new Set(sections.map((section) => draws[section]))) draw?.();
  }

  function drawNode() {
    const { node } = client.state;
    update(cards.node, [h("h3", { class: "dpc-head" }, t("This node")), ...(node ? nodeRows(node) : [])]);
  }

  function nodeRows(node) {
    const [state, says] = node.error ? ["busy", t("needs mending")]
      : node.running ? ["ready", t("running")] : ["known", t("not running")];
    return [
      h("div", { class: "dpc-row" },
        mark(state, says),
        h("bdi", { class: "dpc-name dpc-grow" }, node.name || t("Not running")),
        node.running
          ? button(copied === "yes" ? t("Copied") : node.address ? t("Copy address") : t("Copy node id"), copy)
          : button(calls.busy("start") ? t("Starting…") : t("Start"), () => calls.run("start", "start"), {
            class: "dpc-button dpc-primary", busy: calls.busy("start") }),
        h("span", { class: "dpc-fact dpc-mono dpc-id", title: line(node.node_id, node.version) },
          shortId(node.node_id))),
      failure(calls.error("start")),
      copied === "no" && h("div", { class: "dpc-row" },
        h("input", { class: "dpc-input dpc-mono", readonly: true, value: node.address ?? node.node_id,
          "aria-label": t("Copy this yourself"), onfocus: (event) => event.currentTarget.select() })),
      node.running && !node.address && h("p", { class: "dpc-hint" }, node.takes_calls
        ? t("It listens on no port: others call it over the hub.")
        : t("It does not listen: others cannot link to it, it can link to them.")),
      node.hub && h("p", { class: "dpc-hint" }, t("Hub: %1", node.hub)),
      failure(node.error),
      node.running && sharingRow(node),
      failure(calls.error("share")),
    ];
  }

  function sharingRow(node) {
    const means = !node.sharing ? t("off: nobody can ask this node")
      : node.paused ? t("paused: what runs goes on, nothing new is taken")
      : t("on: those you let in can ask this node");
    const busy = calls.busy("share");
    const pause = () => calls.run("share", "pause", { on: !node.paused });
    return h("div", { class: "dpc-row", "aria-busy": busy || null },
      h("div", { class: "dpc-grow" }, t("Share my models"), h("div", { class: "dpc-fact" }, means)),
      node.sharing && button(node.paused ? t("Resume") : t("Pause"), pause, {
        busy, "aria-label": node.paused ? t("Resume sharing") : t("Pause sharing") }),
      toggle(t("Share my models"), node.sharing, () => calls.run("share", "share", { on: !node.sharing }), means));
  }

  function drawHosts() {
    const { hosts } = client.state;
    update(hostsTop, [
      h("h3", { class: "dpc-head" }, t("Compute hosts"),
        button("+", toggleConnect, { class: "dpc-plus", "aria-label": t("Connect to a host"),
          title: t("Connect to a host"), "aria-expanded": connecting })),
      connecting && connectForm(calls, t, toggleConnect),
    ]);
    update(hostList, (hosts ?? []).map(hostRow));
    settle();
  }

  function hostRow(host) {
    const { chosen } = client.state;
    const here = chosen?.id === host.id;
    const away = host.state === "unreachable";
    const busy = calls.busy(host.id);
    const choose = () => away || calls.run(host.id, "choose", { host: host.id, model: null });
    const className = `dpc-row${here ? " dpc-here" : ""}${away ? " dpc-away" : ""}`;
    return h("div", { key: host.id, class: className, "aria-busy": busy || null },
      mark(host.state, hostState(host, t)),
      h("div", { class: "dpc-grow" },
        h("div", { class: "dpc-line" },
          h("button", { type: "button", class: "dpc-item dpc-name", role: "radio", tabindex: -1, "aria-checked": here,
            "aria-disabled": away || null, title: hostDetails(host) || null, onclick: choose },
          h("bdi", {}, host.name)), idBeside(host.name, host.id),
          h("span", { class: "dpc-fact" }, busy ? t("linking…") : line(linkFacts(host))),
          here && h("span", { class: "dpc-badge" }, t("this notebook"))),
        h("div", { class: "dpc-fact" },
          line(modelsInShort(host, here && chosen.model), queueFacts(host, t), absenceFacts(host, t))),
        failure(calls.error(host.id))),
      away && button(t("Retry"), () => calls.run(host.id, "connect", { address: host.id, name: null }), {
        busy, class: "dpc-item dpc-button", tabindex: -1, "aria-label": t("Retry %1", host.name) }));
  }

  function modelsInShort({ models, id }, chosenModel) {
    if (chosenModel) return [chosenModel];
    if (models.length === 1) return [models[0].model, id === "local" && models[0].provider];
    const warm = models.filter((model) => model.warm);
    return models.length ? [t("%1 models", models.length), warm.length === 1 && t("warm: %1", warm[0].model)] : [];
  }

  function drawRunning() {
    const { requests = { asking: [], serving: [] }, rate, hosts = [] } = client.state;
    const firstModel = (id) => hosts.find((host) => host.id === id)?.models[0]?.model;
    const rows = [
      ...requests.asking.map((each) => requestRow("→", t("you ask"), each, each.model || firstModel(each.peer))),
      ...requests.serving.map((each) => requestRow("←", t("you answer"), each, each.model)),
    ];
    update(running, [
      h("div", { class: "dpc-row", key: "rate" },
        h("div", { class: "dpc-grow" },
          rows.length ? tokensPerSecond(rate?.now ?? 0, t) : h("span", { class: "dpc-fact" }, t("Nothing runs."))),
        rate?.history.length > 1 && plot(rate)),
      rows,
    ]);
  }

  function requestRow(arrow, way, request, model) {
    const id = idBeside(request.name, request.peer);
    return h("div", { class: "dpc-row" },
      h("span", { class: "dpc-arrow", role: "img", "aria-label": way, title: way }, arrow),
      h("div", { class: "dpc-grow" },
        h("bdi", {}, request.name), id && [" ", id], " · ", h("bdi", {}, model || t("any model")),
        h("div", { class: "dpc-fact" }, requestProgress(request, t))));
  }

  function plot({ now, history }) {
    const top = Math.max(1, ...history);
    const { width, height } = PLOT;
    const x = (index) => (index * width) / (history.length - 1);
    const y = (value) => height - 1 - (value / top) * (height - 2);
    const points = history.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const most = count(Math.max(...history));
    return h("svg", { class: "dpc-plot", viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": t("Tokens a second over the last minute: now %1, at most %2", count(now), most) },
      h("polyline", { points }));
  }

  function drawToday() {
    const sums = client.state.today;
    const loading = calls.busy("usage");
    update(today, [
      h("div", { class: "dpc-row" },
        h("div", { class: "dpc-grow" }, t("Today"),
          h("div", { class: "dpc-fact" }, !sums?.asks ? t("nothing asked") : line(some(sums.asks, "1 ask", "%1 asks"),
            t("%1 tokens", count(sums.asked_tokens)), some(sums.hosts, "1 host", "%1 hosts"))),
          sums?.served > 0 && h("div", { class: "dpc-fact" }, line(t("%1 answered", count(sums.served)),
            t("%1 tokens", count(sums.served_tokens)), some(sums.people, "for 1 person", "for %1 people")))),
        button(t("Usage"), toggleUsage, { "aria-expanded": Boolean(usage), busy: loading })),
      failure(calls.error("usage")),
      usage && usageTable(),
    ]);
  }

  const some = (number, one, many) => (number === 1 ? t(one) : t(many, count(number)));

  function usageTable() {
    const cell = (value) => h("td", { class: /^[\d,.]+( s)?$/.test(value) ? "dpc-number" : null }, h("bdi", {}, value));
    return h("div", { class: "dpc-usage" },
      h("label", { class: "dpc-fact" }, t("Over"), " ",
        h("select", {
          class: "dpc-input", value: String(days), onchange: ({ currentTarget }) => loadUsage(currentTarget.value),
        },
          SPANS.map(([value, label]) => h("option", { value: String(value) }, t(label))))),
      usage.rows.length === 0 ? h("p", { class: "dpc-fact" }, t("Nothing was used.")) :
        h("div", { class: "dpc-scroll", tabindex: 0, role: "region", "aria-label": t("Usage") },
          h("table", {},
            h("thead", {}, h("tr", {}, usage.head.map((name) => (name ? h("th", { scope: "col" }, name) : h("td"))))),
            h("tbody", {}, usage.rows.map((row) => h("tr", {}, row.map((value) => cell(String(value)))))))));
  }

  async function loadUsage(value) {
    days = value === "null" ? null : Number(value);
    usage = (await calls.run("usage", "usage", { days })) ?? usage;
    drawToday();
  }

  async function toggleUsage() {
    if (!usage) return loadUsage(days);
    usage = null;
    drawToday();
  }

  async function copy() {
    const { node } = client.state;
    copied = (await copyText(node.address ?? node.node_id)) ? "yes" : "no";
    drawNode();
    if (copied === "no") cards.node.querySelector("input").focus();
    clearTimeout(copiedTimer);
    copiedTimer = copied === "yes" && setTimeout(() => { copied = null; drawNode(); }, COPIED_MS);
  }

  function toggleConnect() {
    connecting = !connecting;
    calls.forget("connect");
    drawHosts();
    hostsTop.querySelector(connecting ? "input" : ".dpc-plus").focus();
  }

  const stop = client.onState((_, changed) => render(changed));
  render(Object.keys(draws));
  return () => {
    clearTimeout(copiedTimer);
    stop();
  };
}
