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

  test("the way to a host, and in its title the whole reason and what else was tried", () => {
    const tried = "Tried as well: TLS at 192.0.2.7:8889 (no answer yet).";
    show({ ...STATE, hosts: [host("a", { name: "anna", kind: "via rita", tried }), STATE.hosts[3]] });
    expect(row("anna").textContent).toContain("via rita · 2 ms");
    expect(row("anna").querySelector(".dpc-name").title).toBe(`Ask anna, its first model\n${tried}`);
    expect(row("carol").querySelector(".dpc-name").title).toContain("\nno path: Hub unreachable");
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

describe("at the hub", () => {
  const HUB = { ...STATE, node: { hub: "online at https://hub.example.org" } };
  const finder = () => el.querySelector(".dpc-hub-ask .dpc-button");
  const found = () => [...el.querySelectorAll("[role=listitem]")];
  const says = () => el.querySelector(".dpc-hub-ask [role=status]").textContent;
  const node = (id, more = {}) => ({ id, name: id, models: ["llama3-70b"], ...more });
  const find = async (...nodes) => {
    finder().click();
    answer({ result: nodes });
    await vi.waitFor(() => expect(says()).not.toMatch(/^(asking.*)?$/));
  };

  test("there is no trace of one where none is set", () => {
    type("nothing");
    press(search(), "Enter");
    expect([finder(), sent, el.textContent.includes("hub")]).toEqual([null, [], false]);
    client.receive({ state: { node: HUB.node } });
    expect(finder()).not.toBeNull();
    client.receive({ state: { node: { hub: "" } } });
    expect(finder()).toBeNull();
  });

  test("it is asked by a click, and not while somebody types", () => {
    show(HUB);
    expect([finder().textContent, says()]).toEqual(["Find hosts at the hub", ""]);
    type("qw");
    expect([finder().textContent, sent]).toEqual(["Find “qw” at the hub", []]);
    finder().click();
    finder().click();
    expect([asked(), says()]).toEqual([[["find", { words: "qw" }]], "asking the hub…"]);
  });

  test("Enter asks it where no host here is called so", () => {
    show(HUB);
    type("carol");
    press(search(), "Enter");
    expect(sent).toEqual([]);
    type("mistral");
    press(search(), "Enter");
    expect(asked()).toEqual([["find", { words: "mistral" }]]);
  });

  test("those that are not linked are shown, by its word, and linked by their id", async () => {
    show(HUB);
    const id = "dpc-node-51d39b0c77aa41e08c11d2f3a4b5e07a";
    await find(node("a"), node("c", { name: "carol" }), node(id, { name: "dora", models: ["a", "b", "c", "d", "e"] }));
    expect(says()).toBe("found at the hub, by its word");
    expect(found().map((each) => each.querySelector(".dpc-name").textContent)).toEqual(["carol", "dora"]);
    expect(found()[1].textContent).toContain("dpc-node-51d3…e07aa · b · c · d · +1");
    found()[1].querySelector("button").click();
    expect(asked().at(-1)).toEqual(["connect", { address: id, name: null }]);
    expect(found()[1].getAttribute("aria-busy")).toBe("true");
    client.receive({ state: { hosts: [...STATE.hosts, host(id, { name: "dora", state: "known" })] } });
    answer({ result: { id, name: "dora" } });
    await vi.waitFor(() => expect(document.activeElement.textContent).toBe("dora"));
    expect(found().map((each) => each.querySelector(".dpc-name").textContent)).toEqual(["carol"]);
    found()[0].querySelector("button").click();
    answer({ result: { id: "c", name: "carol" } });
    await vi.waitFor(() => expect(says()).toBe("You are linked to all that it shows you."));
  });

  test("a link that fails says why at that node alone", async () => {
    show(HUB);
    await find(node("c", { name: "carol" }));
    found()[0].querySelector("button").click();
    answer({ error: "No way was found." });
    await vi.waitFor(() => expect(found()[0].querySelector("[role=alert]").textContent).toBe("No way was found."));
    expect(row("carol").querySelector("[role=alert]")).toBeNull();
  });

  test("what is found belongs to what was typed", async () => {
    show(HUB);
    await find(node("d"));
    type("x");
    expect([found(), says()]).toEqual([[], ""]);
    finder().click();
    type("xy");
    finder().click();
    answer({ result: [node("d")] });
    await vi.waitFor(() => expect(says()).toBe(""));
    expect([found(), sent.length]).toEqual([[], 2]);
  });

  test("nobody, nobody else, and an error are told", async () => {
    show(HUB);
    await find();
    expect(says()).toContain("It shows you nobody such.");
    await find(node("a"));
    expect(says()).toBe("You are linked to all that it shows you.");
    finder().click();
    answer({ error: "The hub does not answer." });
    await vi.waitFor(() => expect(el.querySelector("[role=alert]").textContent).toBe("The hub does not answer."));
    type("x");
    expect(el.querySelector("[role=alert]")).toBeNull();
  });

  test("Tab finds one of its buttons, arrows the others", async () => {
    show(HUB);
    await find(node("d"), node("e"));
    const buttons = found().map((each) => each.querySelector("button"));
    expect(buttons.map((each) => each.tabIndex)).toEqual([0, -1]);
    buttons[0].focus();
    press(buttons[0], "ArrowDown");
    expect(document.activeElement).toBe(buttons[1]);
  });

  test("hostile words are text, and axe has nothing to say", async () => {
    show(HUB);
    await find(node("x", { name: EVIL, models: [EVIL] }));
    expect([el.querySelector("img"), found()[0].querySelector(".dpc-name").textContent]).toEqual([null, EVIL]);
    const { violations } = await axe.run(el, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa"], rules: { "color-contrast": { enabled: false } } });
    expect(violations.map(({ id }) => id)).toEqual([]);
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
    expect(form.elements.address.placeholder).toBe("Address, name or invitation");
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
