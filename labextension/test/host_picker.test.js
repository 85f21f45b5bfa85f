// @vitest-environment jsdom
import axe from "axe-core";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Client } from "../../dpc_jupyter/jupyter/widgets/client.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";
import { hostPicker } from "../../dpc_jupyter/jupyter/widgets/host_picker.js";

const EVIL = '<img src=x onerror="globalThis.pwned=1">';
const model = (name, more = {}) => ({ model: name, provider: "ollama", context_window: 8192, vision: false, warm: null, ...more });
const host = (id, more = {}) => ({
  id, name: id, state: "ready", kind: "TLS", rtt_ms: 2, reason: "", last_seen: null, waiting: null, running: null, eta_s: null, models: [], ...more,
});
const STATE = {
  hosts: [
    host("local", { name: "Local", kind: "local", rtt_ms: null, models: [model("smollm2-135m")] }),
    host("a", { name: "anna", state: "busy", waiting: 2, eta_s: 40, models: [model("llama3-70b", { warm: true }), model("llava:13b", { vision: true, warm: false })] }),
    host("l", { name: "lab-gpu", kind: "WebRTC", rtt_ms: 31, waiting: 0, running: 0, models: [1, 2, 3, 4, 5, 6].map((n) => model(`qwen:${n}b`)) }),
    host("c", { name: "carol", state: "unreachable", kind: "", rtt_ms: null, reason: "no path: Hub unreachable" }),
  ],
  chosen: { id: "a", name: "anna", model: "llama3-70b" },
};

let el, client, sent, stop;

function show(state = STATE) {
  sent = [];
  client = new Client((message) => { if (message.method !== "state") sent.push(message); });
  el = document.createElement("div");
  document.body.replaceChildren(el);
  stop = hostPicker(el, client, t);
  client.receive({ state: structuredClone(state) });
}

beforeEach(() => show());
afterEach(() => stop());

const row = (name) => [...el.querySelectorAll(".dpc-row")].find((each) => each.querySelector(".dpc-name").textContent === name);
const rows = () => [...el.querySelectorAll(".dpc-row .dpc-name")].map((each) => each.textContent);
const chip = (name) => [...el.querySelectorAll(".dpc-chip")].find((each) => each.textContent.startsWith(name));
const search = () => el.querySelector("input[type=search]");
const type = (text) => {
  search().value = text;
  search().dispatchEvent(new Event("input"));
};
const press = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const checked = () => [...el.querySelectorAll('[aria-checked="true"]')].map((each) => each.textContent);
const asked = () => sent.map(({ method, params }) => [method, params]);
const answer = (reply) => client.receive({ reply: sent.at(-1).id, ...reply });

describe("what is shown", () => {
  test("hosts with their way, queue and models", () => {
    expect(rows()).toEqual(["Local", "anna", "lab-gpu", "carol"]);
    expect(row("anna").textContent).toContain("TLS · 2 ms · 2 waiting, about 40 s");
    expect(chip("llama3-70b").textContent).toBe("llama3-70b · 8k · warm");
    expect(chip("llava").textContent).toBe("llava:13b · 8k · vision · cold");
    expect(row("lab-gpu").textContent).toContain("WebRTC · 31 ms · idle");
    expect(row("anna").querySelector(".dpc-mark").getAttribute("aria-label")).toBe("busy");
  });

  test("beside each name the id that only its bearer has, for the eye and for the ear", () => {
    const [one, two] = ["dpc-node-51d39b0c77aa41e08c11d2f3a4b5e07a", "dpc-node-aaaa0b0c77aa41e08c11d2f3a4b5ffff"];
    show({ ...STATE, hosts: [STATE.hosts[0], host(one, { name: "anna" }), host(two, { name: "аnna" })] });
    expect([...el.querySelectorAll(".dpc-beside")].map((each) => each.textContent)).toEqual(["dpc-node-51d3…e07a", "dpc-node-aaaa…ffff"]);
    expect(row("аnna").getAttribute("aria-label")).toContain("аnna · dpc-node-aaaa…ffff");
  });

  test("the notebook's choice is marked", () => {
    expect(checked()).toEqual(["llama3-70b · 8k · warm"]);
    expect(row("anna").textContent).toContain("this notebook");
    client.receive({ state: { chosen: { id: "local", name: "Local", model: null } } });
    expect(checked()).toEqual(["Local"]);
    expect(row("anna").textContent).not.toContain("this notebook");
  });

  test("long lists are folded, but for the chosen model", () => {
    client.receive({ state: { chosen: { id: "l", name: "lab-gpu", model: "qwen:6b" } } });
    const names = () => [...row("lab-gpu").querySelectorAll(".dpc-chip")].map((each) => each.textContent.split(" ")[0]);
    expect(names()).toEqual(["qwen:1b", "qwen:2b", "qwen:3b", "qwen:6b", "+2"]);
    chip("+2").focus();
    chip("+2").click();
    expect(names()).toEqual(["qwen:1b", "qwen:2b", "qwen:3b", "qwen:4b", "qwen:5b", "qwen:6b"]);
    expect(row("lab-gpu").contains(document.activeElement)).toBe(true);
  });

  test("one that is away says why, and can only be tried again", () => {
    expect(row("carol").textContent).toContain("no path: Hub unreachable");
    row("carol").querySelector(".dpc-name").click();
    expect(sent).toEqual([]);
    row("carol").querySelector(".dpc-button").click();
    expect(asked()).toEqual([["connect", { address: "c", name: null }]]);
  });

  test("words before hosts have come, and when the kernel is gone", () => {
    show({});
    expect(el.querySelector("[role=status]").textContent).toBe("Looking for hosts…");
    client.setLink("lost");
    expect(el.querySelector("[role=status]").textContent).toContain("%load_ext dpc_jupyter");
  });

  test("axe has nothing to say", async () => {
    const { violations } = await axe.run(el, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa"], rules: { "color-contrast": { enabled: false } } });
    expect(violations.map(({ id }) => id)).toEqual([]);
  });

  test("hostile names are text", () => {
    show({ ...STATE, hosts: [host("x", { name: EVIL, reason: EVIL, kind: EVIL, models: [model(EVIL, { provider: EVIL })] })] });
    expect(el.querySelector("img")).toBeNull();
    expect(rows()).toEqual([EVIL]);
  });
});

describe("searching", () => {
  test("by host shows all of its models, by model only those", () => {
    type("ANNA");
    expect(rows()).toEqual(["anna"]);
    expect(el.querySelectorAll(".dpc-chip")).toHaveLength(2);
    type("lab 5b");
    expect([rows(), el.querySelectorAll(".dpc-chip").length]).toEqual([["lab-gpu"], 1]);
    type("vision");
    expect(rows()).toEqual(["anna"]);
    type("nothing");
    expect(rows()).toEqual([]);
    expect(el.querySelector("[role=status]").textContent).toBe("No host and no model is called “nothing”.");
    press(search(), "Escape");
    expect(rows()).toHaveLength(4);
  });

  test("Enter takes the first that can be had", () => {
    press(search(), "Enter");
    type("carol");
    press(search(), "Enter");
    expect(sent).toEqual([]);
    type("llava");
    press(search(), "Enter");
    type("lab");
    press(search(), "Enter");
    expect(asked()).toEqual([["choose", { host: "a", model: "llava:13b" }], ["choose", { host: "l", model: null }]]);
  });

  test("down goes to the list, letters go back", () => {
    press(search(), "ArrowDown");
    expect(document.activeElement.textContent).toContain("llama3-70b");
    press(document.activeElement, "q");
    expect(document.activeElement).toBe(search());
  });

  test("what is typed survives news of the hosts", () => {
    search().focus();
    type("qw");
    client.receive({ state: { hosts: [...STATE.hosts, host("z", { models: [model("qwen:9b")] })] } });
    expect([document.activeElement, search().value, rows()]).toEqual([search(), "qw", ["lab-gpu", "z"]]);
  });
});

describe("choosing", () => {
  test("a model or a host asks the kernel, and says when it is done", async () => {
    const chosen = vi.fn();
    el.addEventListener("dpc-chosen", chosen);
    chip("llava").click();
    expect(asked()).toEqual([["choose", { host: "a", model: "llava:13b" }]]);
    expect(row("anna").getAttribute("aria-busy")).toBe("true");
    answer({ result: { id: "a", name: "anna", model: "llava:13b" } });
    await vi.waitFor(() => expect(chosen).toHaveBeenCalled());
    row("lab-gpu").querySelector(".dpc-name").click();
    expect(asked().at(-1)).toEqual(["choose", { host: "l", model: null }]);
  });

  test("an error stands at its host", async () => {
    chip("llava").click();
    answer({ error: "anna is not connected." });
    await vi.waitFor(() => expect(row("anna").querySelector("[role=alert]").textContent).toBe("anna is not connected."));
  });

  test("focus stays while hosts come and go", () => {
    chip("llava").focus();
    client.receive({ state: { hosts: [host("new"), ...STATE.hosts].reverse() } });
    expect(document.activeElement.textContent).toContain("llava:13b");
  });
});

describe("connecting by address", () => {
  test("happens in place, keeps what is typed on an error, and closes when done", async () => {
    el.querySelector(".dpc-plus").click();
    const form = el.querySelector("form");
    expect(document.activeElement).toBe(form.elements.address);
    form.elements.address.value = "dpc://x";
    form.elements.name.value = "anna";
    form.requestSubmit();
    expect(asked()).toEqual([["connect", { address: "dpc://x", name: "anna" }]]);
    answer({ error: "dpc://x has no node_id." });
    await vi.waitFor(() => expect(el.querySelector("form [role=alert]").textContent).toBe("dpc://x has no node_id."));
    expect(form.elements.address.value).toBe("dpc://x");
    form.requestSubmit();
    answer({ result: { id: "x", name: "anna" } });
    await vi.waitFor(() => expect(el.querySelector("form")).toBeNull());
    expect(document.activeElement).toBe(el.querySelector(".dpc-plus"));
  });
});
