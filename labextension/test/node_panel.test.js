// @vitest-environment jsdom
import axe from "axe-core";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Client } from "../../dpc_jupyter/jupyter/widgets/client.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";
import { nodePanel } from "../../dpc_jupyter/jupyter/widgets/node_panel.js";

const EVIL = '<img src=x onerror="globalThis.pwned=1">';
const NODE = {
  running: true, name: "bob-laptop", node_id: "dpc-node-51d39b0c77aa41e08c11d2f3a4b5e07a", address: "dpc://192.0.2.7:8889?node_id=x",
  sharing: false, paused: false, error: null, version: "0.1",
};
const host = (id, more = {}) => ({
  id, name: id, state: "ready", kind: "TLS", rtt_ms: 2, reason: "", last_seen: null, waiting: null, running: null, eta_s: null, models: [], ...more,
});
const model = (name, warm = null) => ({ model: name, provider: "embedded", context_window: 8192, vision: false, warm });
const request = (name, more = {}) => ({ peer: name, name, model: "m", state: "running", position: null, waited_s: 0, tokens: 0, ...more });
const STATE = {
  node: NODE,
  hosts: [
    host("local", { name: "Local", kind: "local", rtt_ms: null, models: [model("smollm2")] }),
    host("a", { name: "anna", waiting: 2, eta_s: 40, models: [model("llama3-70b"), model("llava")] }),
    host("l", { name: "lab-gpu", waiting: 0, running: 0, models: [model("qwen3:8b", true), model("x", false), model("y", false)] }),
    host("c", { name: "carol", state: "unreachable", last_seen: Date.now() / 1000 - 7300, reason: "no path" }),
  ],
  chosen: { id: "a", name: "anna", model: "llama3-70b" },
  requests: { asking: [request("anna", { tokens: 312 })], serving: [request("dave", { state: "queued", position: 2 })] },
  rate: { now: 64, history: [0, 32, 80, 64] },
  today: { asks: 41, asked_tokens: 18204, hosts: 1, served: 0, served_tokens: 0, people: 0 },
};

let el, client, sent, stop;

function show(state = STATE) {
  sent = [];
  client = new Client((message) => { if (message.method !== "state") sent.push(message); });
  el = document.createElement("div");
  document.body.replaceChildren(el);
  stop = nodePanel(el, client, t);
  client.receive({ state: structuredClone(state) });
}

beforeEach(() => show());
afterEach(() => {
  stop();
  vi.useRealTimers();
});

const card = (label) => el.querySelector(`.dpc-card[aria-label="${label}"]`);
const push = (label, from = el) => [...from.querySelectorAll("button")].find((each) => each.textContent === label);
const asked = () => sent.map(({ method, params }) => [method, params]);
const answer = (reply) => client.receive({ reply: sent.at(-1).id, ...reply });
const share = () => el.querySelector("[role=switch]");
const alerts = () => [...el.querySelectorAll("[role=alert]")].map((each) => each.textContent);

describe("this node", () => {
  test("says who it is, and copies its address", async () => {
    const writeText = vi.fn(async () => {});
    Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
    vi.useFakeTimers();
    expect(card("This node").textContent).toContain("bob-laptopCopy addressdpc-node-51d3…e07a");
    push("Copy address").click();
    await vi.advanceTimersByTimeAsync(0);
    expect(writeText).toHaveBeenCalledWith(NODE.address);
    expect(push("Copied")).toBeTruthy();
    await vi.advanceTimersByTimeAsync(2000);
    expect(push("Copy address")).toBeTruthy();
    delete navigator.clipboard;
  });

  test("without a clipboard shows what to copy; without an address that is the id, and it says why", async () => {
    client.receive({ state: { node: { ...NODE, address: null } } });
    expect(card("This node").textContent).toContain("It does not listen");
    document.execCommand = undefined;
    push("Copy node id").click();
    await vi.waitFor(() => expect(card("This node").querySelector("input").value).toBe(NODE.node_id));
    expect(document.activeElement).toBe(card("This node").querySelector("input"));
  });

  test("says whether it is online at its hub, and that it can be called without a port", () => {
    expect(card("This node").textContent).not.toContain("Hub");
    const hub = `online at https://hub.example.org${EVIL}`;
    client.receive({ state: { node: { ...NODE, address: null, hub, takes_calls: true } } });
    expect(card("This node").textContent).toContain("It listens on no port: others call it over the hub.");
    expect(card("This node").textContent).toContain(`Hub: ${hub}`);
    expect(globalThis.pwned).toBeUndefined();
  });

  test("a host that a peer would relay to says over whom, and can be chosen", () => {
    const hosts = [host("local", { kind: "local" }), host("carl", { state: "known", kind: "via rita", rtt_ms: null })];
    client.receive({ state: { hosts } });
    const row = [...card("Compute hosts").querySelectorAll(".dpc-row")].find((each) => each.textContent.includes("carl"));
    expect(row.textContent).toContain("via rita");
    expect(row.querySelector(".dpc-item").getAttribute("aria-disabled")).toBeNull();
  });

  test("is started where it does not run", async () => {
    client.receive({ state: { node: { ...NODE, running: false, name: "", address: null } } });
    expect(share()).toBeNull();
    push("Start").click();
    expect(asked()).toEqual([["start", {}]]);
    expect(push("Starting…")).toBeTruthy();
    answer({ error: "Port 8889 is taken." });
    await vi.waitFor(() => expect(alerts()).toEqual(["Port 8889 is taken."]));
  });

  test("shows what its owner should mend, as an access file that is broken", () => {
    client.receive({ state: { node: { ...NODE, error: "line 3 is no JSON" } } });
    expect(alerts()).toEqual(["line 3 is no JSON"]);
  });
});

describe("sharing", () => {
  test("is a switch that says what it means, and follows the kernel alone", async () => {
    expect(share().getAttribute("aria-checked")).toBe("false");
    expect(el.textContent).toContain("off: nobody can ask this node");
    expect(push("Pause")).toBeUndefined();
    share().click();
    share().click();
    expect(asked()).toEqual([["share", { on: true }]]);
    expect(share().getAttribute("aria-checked")).toBe("false");
    answer({ error: "The access file is invalid." });
    await vi.waitFor(() => expect(alerts()).toEqual(["The access file is invalid."]));
    client.receive({ state: { node: { ...NODE, sharing: true } } });
    expect(share().getAttribute("aria-checked")).toBe("true");
  });

  test("can be paused and taken up again", () => {
    client.receive({ state: { node: { ...NODE, sharing: true } } });
    push("Pause").click();
    expect(asked()).toEqual([["pause", { on: true }]]);
    client.receive({ state: { node: { ...NODE, sharing: true, paused: true } } });
    expect(el.textContent).toContain("paused: what runs goes on, nothing new is taken");
    expect(push("Resume")).toBeTruthy();
  });
});

describe("compute hosts", () => {
  const row = (name) => [...card("Compute hosts").querySelectorAll(".dpc-row")].find((each) => each.querySelector(".dpc-name").textContent === name);

  test("are told in short", () => {
    expect(row("Local").textContent).toContain("smollm2 · embedded");
    expect(row("anna").textContent).toContain("llama3-70b · 2 waiting, about 40 s");
    expect(row("lab-gpu").textContent).toContain("3 models · warm: qwen3:8b · idle");
    expect(row("carol").textContent).toContain("last seen 2 h ago · no path");
  });

  test("a click chooses, the chosen one is marked", async () => {
    expect(row("anna").textContent).toContain("this notebook");
    expect(row("anna").querySelector("[role=radio]").getAttribute("aria-checked")).toBe("true");
    row("Local").querySelector("[role=radio]").click();
    expect(asked()).toEqual([["choose", { host: "local", model: null }]]);
    answer({ error: "No model here." });
    await vi.waitFor(() => expect(row("Local").querySelector("[role=alert]").textContent).toBe("No model here."));
    row("carol").querySelector("[role=radio]").click();
    push("Retry").click();
    expect(asked().slice(1)).toEqual([["connect", { address: "c", name: null }]]);
  });

  test("others are connected in place", () => {
    card("Compute hosts").querySelector(".dpc-plus").click();
    const { address } = card("Compute hosts").querySelector("form").elements;
    expect(document.activeElement).toBe(address);
    address.value = "dpc://half-typ";
    client.receive({ state: { hosts: STATE.hosts.slice(0, 2), node: { ...NODE, name: "b" } } });
    expect(address.isConnected && address.value).toBe("dpc://half-typ");
  });
});

test("beside each name stands the id that only its bearer has", () => {
  const id = "dpc-node-aaaa0b0c77aa41e08c11d2f3a4b5ffff";
  client.receive({ state: {
    hosts: [STATE.hosts[0], host(NODE.node_id, { name: "anna" }), host(id, { name: "аnna" }), host("dpc-node-51d39", { name: "dpc-node-51d39" })],
    requests: { asking: [request("Local", { peer: "local" })], serving: [request("аnna", { peer: id })] },
  } });
  const beside = (label) => [...card(label).querySelectorAll(".dpc-beside")].map((each) => each.textContent);
  expect(beside("Compute hosts")).toEqual(["dpc-node-51d3…e07a", "dpc-node-aaaa…ffff"]);
  expect(card("Now").textContent).toContain("аnna dpc-node-aaaa…ffff · m");
  expect(beside("Now")).toEqual(["dpc-node-aaaa…ffff"]);
});

describe("now", () => {
  test("requests here and elsewhere, and the rate as a picture with words", () => {
    expect(card("Now").textContent).toContain("anna · m312 tokens");
    expect(card("Now").textContent).toContain("dave · m2nd in line");
    expect([...card("Now").querySelectorAll(".dpc-arrow")].map((each) => each.getAttribute("aria-label"))).toEqual(["you ask", "you answer"]);
    const plot = card("Now").querySelector("svg");
    expect(plot.getAttribute("aria-label")).toBe("Tokens a second over the last minute: now 64, at most 80");
    expect(plot.firstChild.getAttribute("points")).toBe("0.0,21.0 30.0,13.0 60.0,1.0 90.0,5.0");
    const line = plot.firstChild;
    client.receive({ state: { rate: { now: 0, history: [0, 0] }, requests: { asking: [], serving: [] } } });
    expect(card("Now").querySelector("polyline")).toBe(line);
    expect(card("Now").textContent).toContain("Nothing runs.");
  });

  test("one who asked for no model gets the host's first, which is named", () => {
    client.receive({ state: { requests: { asking: [request("a", { name: "anna", model: "" })], serving: [] } } });
    expect(card("Now").textContent).toContain("anna a · llama3-70b");
  });

  test("tokens that flow redraw nothing but themselves", () => {
    const seen = vi.fn();
    const observer = new MutationObserver(seen);
    for (const name of ["This node", "Compute hosts"]) observer.observe(card(name), { subtree: true, childList: true, attributes: true, characterData: true });
    client.receive({ state: { rate: { now: 1, history: [0, 1] } } });
    expect(observer.takeRecords()).toEqual([]);
  });
});

describe("today and usage", () => {
  test("today is a line, and another for what was answered", () => {
    expect(card("Now").textContent).toContain("41 asks · 18,204 tokens · 1 host");
    expect(card("Now").textContent).not.toContain("answered");
    client.receive({ state: { today: { asks: 0, asked_tokens: 0, hosts: 0, served: 12, served_tokens: 9001, people: 1 } } });
    expect(card("Now").textContent).toContain("nothing asked12 answered · 9,001 tokens · for 1 person");
  });

  test("usage is a table in place, for a span of days", async () => {
    push("Usage").click();
    expect(asked()).toEqual([["usage", { days: 7 }]]);
    answer({ result: { head: ["", "Peer", "Requests"], rows: [["asked", EVIL, "1,038"]] } });
    await vi.waitFor(() => expect(el.querySelector("table")).toBeTruthy());
    expect([...el.querySelectorAll("td")].map((each) => each.textContent)).toEqual(["", "asked", EVIL, "1,038"]);
    expect(el.querySelectorAll(".dpc-number")).toHaveLength(1);
    const select = el.querySelector("select");
    expect(select.value).toBe("7");
    select.value = "null";
    select.dispatchEvent(new Event("change"));
    expect(asked()[1]).toEqual(["usage", { days: null }]);
    answer({ error: "No node runs: start it first." });
    await vi.waitFor(() => expect(alerts()).toEqual(["No node runs: start it first."]));
    push("Usage").click();
    expect(el.querySelector("table")).toBeNull();
  });
});

test("before anything has come, and when the kernel is gone, it stands and says so", () => {
  show({});
  expect(el.querySelectorAll(".dpc-card")).toHaveLength(3);
  expect(el.querySelector("[role=status]").textContent).toBe("");
  client.setLink("lost");
  expect(el.querySelector("[role=status]").textContent).toContain("%load_ext dpc_jupyter");
});

test("axe has nothing to say", async () => {
  const { violations } = await axe.run(el, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa"], rules: { "color-contrast": { enabled: false } } });
  expect(violations.map(({ id }) => id)).toEqual([]);
});

test("hostile strings are text", () => {
  show({
    ...STATE,
    node: { ...NODE, name: EVIL, error: EVIL, address: EVIL },
    hosts: [host("x", { name: EVIL, reason: EVIL, kind: EVIL, models: [model(EVIL)] })],
    requests: { asking: [request(EVIL, { model: EVIL })], serving: [] },
  });
  expect(el.querySelector("img")).toBeNull();
  expect(el.textContent).toContain(EVIL);
});
