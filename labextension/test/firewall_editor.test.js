// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Client } from "../../dpc_jupyter/jupyter/widgets/client.js";
import { withEdits } from "../../dpc_jupyter/jupyter/widgets/access_draft.js";
import { firewallEditor } from "../../dpc_jupyter/jupyter/widgets/firewall_editor.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";

const EVIL = '<img src=x onerror="globalThis.pwned=1">';
const NO_LIMITS = { requests_per_minute: null, tokens_per_day: null, running: null, queued: null };
const id = (part) => `dpc-node-${part.repeat(32).slice(0, 32)}`;
const [DAVE, ANNA, ERIN] = [id("9c11"), id("51d3"), id("e0")];
const person = (node_id, name, more = {}) => ({
  node_id, name, listed: true, groups: [], expires: "", expired: false, legacy_ok: false, tokens_today: 0, models: [], limits: NO_LIMITS, ...more,
});
const ACCESS = {
  path: "/home/bob/.dpc/.dpc_access.json", error: null, sharing: true,
  everyone: { models: [], limits: NO_LIMITS },
  groups: [{ name: "friends", allowed: true, members: [ANNA], models: ["llama3.1:8b"], limits: { ...NO_LIMITS, tokens_per_day: 50_000 } }],
  people: [
    person(DAVE, "dave", { expires: "2099-11-28", tokens_today: 904, models: ["llama3.1:8b"], limits: { ...NO_LIMITS, running: 1 } }),
    person(ANNA, "anna", { listed: false, groups: ["friends"], tokens_today: 18_204 }),
  ],
};
const model = (name) => ({ model: name, provider: "ollama", context_window: 8192, vision: false, warm: true });
const STATE = {
  hosts: [{ id: "local", name: "Local", state: "ready", kind: "local", models: [model("llama3.1:8b"), model("qwen3:8b")] }],
  access: ACCESS,
  pending: [{ node_id: ERIN, name: "erin", model: "llama3-70b", when: Date.now() / 1000 - 185 }],
};

let el, client, asked, kernel, stop;

function show(state = STATE) {
  asked = [];
  kernel = { preview: ({ edits }) => ({ changed: true, lines: edits.map((edit) => ({ sign: "+", text: JSON.stringify(edit) })) }) };
  client = new Client(({ id: call, method, params }) => {
    if (method === "state") return;
    asked.push([method, params]);
    queueMicrotask(() => {
      try {
        client.receive({ reply: call, result: kernel[method]?.(params) ?? null });
      } catch (error) {
        client.receive({ reply: call, error: error.message });
      }
    });
  });
  el = document.createElement("div");
  document.body.replaceChildren(el);
  stop = firewallEditor(el, client, t);
  client.receive({ state: structuredClone(state) });
}

const settle = () => new Promise((done) => setTimeout(done));
const push = (label) => {
  [...el.querySelectorAll("button")].find((each) => each.textContent === label || each.ariaLabel === label || each.getAttribute("aria-label") === label).click();
  return settle();
};
const labelled = (label) => {
  const of = [...el.querySelectorAll("label")].find((each) => each.textContent.trim() === label);
  return of ? of.control ?? of.querySelector("input") : el.querySelector(`[aria-label="${label}"]`);
};
const type = (label, value, event = "change") => {
  const input = labelled(label);
  input.value = value;
  input.dispatchEvent(new Event(event, { bubbles: true }));
  return settle();
};
const row = (name) => [...el.querySelectorAll(".dpc-fw-row")].find((each) => each.querySelector(".dpc-name")?.textContent === name);
const cells = (name) => [...row(name).children].map((each) => each.textContent);
const drafted = () => asked.filter(([method]) => method === "preview").at(-1)?.[1].edits;
const called = (method) => asked.filter(([name]) => name === method).map(([, params]) => params);
const change = (access) => client.receive({ state: { access: { ...structuredClone(client.state.access), ...access } } });

beforeEach(() => show());
afterEach(() => stop());

describe("the table", () => {
  test("shows groups and people with their terms", () => {
    expect(cells("friends").slice(0, 5)).toEqual(["friendsanna", "llama3.1:8b", "50k\u00a0tokens/day", "no end", "18,204"]);
    expect(cells("dave").slice(1, 3)).toEqual(["llama3.1:8b", "1\u00a0at\u00a0once"]);
    expect(cells("anna").slice(1, 4)).toEqual(["as its group", "as its group", "no end"]);
    expect(cells("Everyone").slice(1, 3)).toEqual(["all models", "the usual"]);
  });

  test("shows a node id short, whole in its title, and copies the whole", async () => {
    const writeText = vi.fn(async () => {});
    Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
    const button = row("dave").querySelector(".dpc-fw-id");
    expect([button.textContent, button.title]).toEqual(["dpc-node-9c11…9c11", `Copy ${DAVE}`]);
    button.click();
    await settle();
    expect(writeText).toHaveBeenCalledWith(DAVE);
    expect(row("dave").querySelector(".dpc-fw-id").textContent).toBe("Copied");
  });

  test("says who is not let in any more", () => {
    change({ people: [person(DAVE, "dave", { expires: "2020-01-31", expired: true }), person(ANNA, "anna", { listed: false })], groups: [] });
    expect(cells("dave")[3]).toMatch(/^ended .*2020/);
    expect(cells("anna")[3]).toBe("not let in");
  });

  test("renders hostile text as text", async () => {
    const evil = `${id("0")}"><b>`;
    change({ path: EVIL, everyone: { models: [EVIL], limits: NO_LIMITS }, people: [person(evil, EVIL)],
      groups: [{ name: EVIL, allowed: true, members: [evil], models: [EVIL], limits: NO_LIMITS }] });
    client.receive({ state: { pending: [{ node_id: evil, name: EVIL, model: EVIL, when: 0 }] } });
    await push(`Edit ${EVIL}`);
    kernel.preview = () => { throw Error(EVIL); };
    await type("Requests at once", "3");
    expect(el.textContent).toContain(EVIL);
    expect(el.querySelector("img, b")).toBe(null);
    expect(globalThis.pwned).toBe(undefined);
  });
});

describe("a draft", () => {
  beforeEach(() => push("Edit dave"));

  test("writes nothing before Save, which writes what was reviewed", async () => {
    await type("Requests at once", "3");
    await type("Tokens a day", "1000");
    await type("Tokens a day", "");
    await type("Models", "qwen3:8b");
    const edits = [
      { kind: "person", node_id: DAVE, limits: { running: 3 } },
      { kind: "person", node_id: DAVE, models: ["llama3.1:8b", "qwen3:8b"] },
    ];
    expect(drafted()).toEqual(edits);
    expect(el.textContent).toContain("2 changes, not saved");
    expect(cells("dave")[0]).toContain("changed");
    await push("Review");
    expect(el.querySelector(".dpc-fw-lines").textContent).toContain(JSON.stringify(edits[1]));
    expect(called("apply")).toEqual([]);
    await push("Save");
    expect(called("apply")).toEqual([{ edits }]);
    expect(el.querySelector(".dpc-fw-draft")).toBe(null);
    expect(el.textContent).toContain("Saved.");
  });

  test("forgets a change that is taken back", async () => {
    await type("Requests at once", "3");
    await type("Requests at once", "1");
    expect(el.querySelector(".dpc-fw-draft")).toBe(null);
  });

  test("is dropped by Discard", async () => {
    await type("Name", "david");
    expect(row("david")).toBeTruthy();
    await push("Discard");
    expect([row("david"), labelled("Name").value, called("apply")]).toEqual([undefined, "dave", []]);
  });

  test("takes one person's changes back by Undo", async () => {
    await push("Edit anna");
    await type("Name", "ann");
    await push("Edit dave");
    await type("Name", "david");
    await push("Undo");
    expect(drafted()).toEqual([{ kind: "person", node_id: ANNA, name: "ann" }]);
  });

  test("refuses a value beside it, keeps it to be mended, and keeps the rest", async () => {
    await type("Name", "david");
    const wrong = "'running' must be a whole number from 1 to 1,024";
    kernel.preview = ({ edits }) => {
      if (edits.some(({ limits }) => limits?.running === 0)) throw Error(`nodes.${DAVE}.limits.running: ${wrong}`);
      return { lines: [], changed: true };
    };
    await type("Requests at once", "0");
    const input = labelled("Requests at once");
    expect([input.value, input.getAttribute("aria-invalid")]).toEqual(["0", "true"]);
    expect(document.getElementById(input.getAttribute("aria-describedby")).textContent).toBe(wrong);
    await type("Tokens a day", "5");
    expect(labelled("Requests at once").value).toBe("0");
    expect(drafted()).toEqual([
      { kind: "person", node_id: DAVE, name: "david" }, { kind: "person", node_id: DAVE, limits: { tokens_per_day: 5 } },
    ]);
    await type("Requests at once", "2");
    expect(labelled("Requests at once").getAttribute("aria-invalid")).toBe(null);
    expect(drafted()).toHaveLength(3);
  });

  test("shows a refusal at the top when its row is closed", async () => {
    kernel.preview = () => { throw Error("that cannot be"); };
    await type("Name", "dpc-node-x");
    await push("Edit dave");
    expect(el.querySelector(".dpc-card > .dpc-error").textContent).toBe("that cannot be");
  });

  test("stays, on top of the new file, when the file changes under it", async () => {
    await type("Name", "david");
    await push("Review");
    kernel.preview = () => ({ changed: true, lines: [{ sign: "+", text: "on the new file" }] });
    change({ everyone: { models: ["qwen3:8b"], limits: NO_LIMITS } });
    await settle();
    expect(el.textContent).toContain("The file has changed meanwhile");
    expect(el.querySelector(".dpc-fw-lines").textContent).toContain("on the new file");
    expect([cells("Everyone")[1], Boolean(row("david"))]).toEqual(["qwen3:8b", true]);
  });

  test("does not take today's tokens for a changed file", async () => {
    await type("Name", "david");
    change({ people: ACCESS.people.map((each) => ({ ...each, tokens_today: 1_000 })) });
    await settle();
    expect(el.textContent).not.toContain("The file has changed");
    expect(cells("david")[4]).toBe("1,000");
  });

  test("cannot be saved while the kernel refuses it", async () => {
    await type("Name", "david");
    await push("Review");
    kernel.preview = () => { throw Error("the file has gone"); };
    change({ sharing: false });
    await settle();
    expect(el.querySelector(".dpc-fw-draft").textContent).toContain("the file has gone");
    expect([...el.querySelectorAll("button")].some((each) => each.textContent === "Save")).toBe(false);
  });

  test("reviews what changes, with the lines around it", async () => {
    const file = JSON.stringify({ nodes: { [ANNA]: {}, [DAVE]: { models: ["a", "b"], limits: { running: 3, queued: 1 } } } }, null, 2);
    const lines = file.split("\n").map((text) => ({ sign: text.includes("running") ? "+" : " ", text }));
    kernel.preview = () => ({ changed: true, lines });
    await type("Name", "david");
    await push("Review");
    const shown = [...el.querySelector(".dpc-fw-lines").children].map((each) => each.textContent.replace(/ +/g, " "));
    expect(shown).toEqual([
      "⋯ nodes › david › limits", ' "b"', " ],", ' "limits": {', '+ "running": 3,', ' "queued": 1', " }", " }", "⋯",
    ]);
  });

  test("writes no change that came with the click on Save: it was not reviewed", async () => {
    await type("Name", "david");
    await push("Review");
    kernel.preview = () => { throw Error("it has not been looked at"); };
    const input = labelled("Requests at once");
    input.value = "3";
    input.dispatchEvent(new Event("change", { bubbles: true }));
    await push("Save");
    expect(called("apply")).toEqual([{ edits: [{ kind: "person", node_id: DAVE, name: "david" }] }]);
  });

  test("leaves the keyboard somewhere when its button goes away", async () => {
    await type("Name", "david");
    await push("Review");
    expect(document.activeElement.getAttribute("aria-label")).toBe("What will be written");
    await push("Back");
    expect(document.activeElement.textContent).toBe("Discard");
    await push("Discard");
    expect(document.activeElement.getAttribute("aria-label")).toBe("Edit Everyone");
  });

  test("is not saved where nothing would change", async () => {
    await type("Name", "david");
    kernel.preview = () => ({ changed: false, lines: [{ sign: " ", text: "{}" }] });
    await push("Review");
    expect(el.querySelector(".dpc-fw-review").textContent).toContain("stay as it is");
    expect([...el.querySelectorAll("button")].some((each) => each.textContent === "Save")).toBe(false);
  });

  test("asks nobody about what is no whole number", async () => {
    await type("Requests at once", "1.5");
    expect(called("preview")).toEqual([]);
    expect(el.querySelector(".dpc-fw-field [role=alert]").textContent).toBe("This must be a whole number.");
  });

  test("keeps the reason when Save fails", async () => {
    await type("Name", "david");
    await push("Review");
    kernel.apply = () => { throw Error("The disk is full."); };
    await push("Save");
    expect(el.textContent).toContain("The disk is full.");
    expect(el.textContent).toContain("1 change, not saved");
  });

  test("keeps focus and half-typed input when the state changes", () => {
    const input = labelled("Models");
    input.focus();
    input.value = "qwe";
    change({ people: ACCESS.people.map((each) => ({ ...each, tokens_today: 7 })) });
    expect([document.activeElement, labelled("Models").value]).toEqual([input, "qwe"]);
  });
});

describe("what can be changed", () => {
  const cases = [
    ["a model taken out", "dave", () => push("Take out llama3.1:8b"), { kind: "person", node_id: DAVE, models: [] }],
    ["no end", "dave", () => push("No end"), { kind: "person", node_id: DAVE, expires: "" }],
    ["a date", "dave", () => type("Until", "2030-01-31"), { kind: "person", node_id: DAVE, expires: "2030-01-31" }],
    ["an old peer", "dave", () => labelled("An old D-PC Messenger").click(), { kind: "person", node_id: DAVE, legacy_ok: true }],
    ["a member, from its side", "dave", () => labelled("friends").click(), { kind: "group", name: "friends", members: { add: [DAVE] } }],
    ["a member by name", "friends", () => type("Members", "dave"), { kind: "group", name: "friends", members: { add: [DAVE] } }],
    ["a member taken out", "friends", () => push("Take out anna"), { kind: "group", name: "friends", members: { remove: [ANNA] } }],
    ["a group that is not let in", "friends", () => labelled("Let this group in: 1 people").click(), { kind: "group", name: "friends", allowed: false }],
    ["everyone's models", "Everyone", () => type("Models", "qwen*"), { kind: "everyone", models: ["qwen*"] }],
    ["a person removed", "dave", () => push("Remove this person"), { kind: "person", node_id: DAVE, remove: true }],
    ["a group removed", "friends", () => push("Remove this group"), { kind: "group", name: "friends", remove: true }],
    ["sharing", "dave", () => push("Sharing"), { kind: "sharing", on: false }],
  ];
  test.each(cases)("%s", async (_what, name, act, edit) => {
    await push(`Edit ${name}`);
    await act();
    await settle();
    expect(drafted()).toEqual([edit]);
  });

  test("a week from now is a date", async () => {
    await push("Edit dave");
    await push("A week");
    expect(drafted()[0].expires).toBe(new Date(Date.now() + 7 * 86_400_000).toISOString().slice(0, 10));
  });

  test("an old peer comes with a warning", async () => {
    await push("Edit dave");
    labelled("An old D-PC Messenger").click();
    await settle();
    expect(el.querySelector(".dpc-fw-warning").textContent).toContain("channel binding");
  });

  test("a new person, who can be taken away again without a trace", async () => {
    await push("Add a person");
    labelled("Node id").value = ERIN;
    labelled("Name").value = "erin";
    await push("Add");
    expect(drafted()).toEqual([{ kind: "person", node_id: ERIN, listed: true, name: "erin" }]);
    expect(cells("erin")[0]).toContain("new");
    await push("Remove this person");
    expect([row("erin"), el.querySelector(".dpc-fw-draft")]).toEqual([undefined, null]);
  });

  test("with a value that is refused are not saved without it", async () => {
    const has = (label) => [...el.querySelectorAll(".dpc-fw-draft button")].some(({ textContent }) => textContent === label);
    await push("Sharing");
    await push("Review");
    expect(has("Save")).toBe(true);
    await push("Edit dave");
    kernel.preview = () => { throw Error("'running' must be a whole number from 1 to 1,024"); };
    await type("Requests at once", "0");
    expect([has("Review"), has("Save")]).toEqual([false, false]);
    expect(el.querySelector(".dpc-fw-draft").textContent).toContain("correct what is refused above");
    kernel.preview = ({ edits }) => ({ changed: true, lines: edits.map((edit) => ({ sign: "+", text: JSON.stringify(edit) })) });
    await type("Requests at once", "2");
    expect(has("Save")).toBe(true);
  });

  test("a new person that the file cannot hold is refused in the form", async () => {
    kernel.preview = () => { throw Error("'erin' must be a node id, which starts with dpc-node-"); };
    await push("Add a person");
    labelled("Node id").value = "erin";
    await push("Add");
    expect(el.querySelector(".dpc-fw-new .dpc-error").textContent).toContain("must be a node id");
    expect(labelled("Node id").value).toBe("erin");
    expect(el.querySelectorAll("[role=alert]")).toHaveLength(1);
  });
});

describe("refused requests", () => {
  const allow = (label = "Allow for a week") => push(label);

  test("show what a node calls itself as a claim, which never becomes its name", async () => {
    const line = el.querySelector(".dpc-fw-pending");
    expect(line.textContent).toContain("calls itself “erin”, asked for llama3-70b 3 min ago");
    kernel.allow = () => ({ sentence: "may use llama3-70b" });
    await allow();
    expect(called("allow")).toEqual([{ node_id: ERIN, model: "llama3-70b", expires: "7d", name: null }]);
    expect(el.querySelector("[role=status]").textContent).toBe("may use llama3-70b");
  });

  test("take the name that the owner types", async () => {
    labelled(`Your name for ${ERIN}`).value = "erin from the lab";
    await allow();
    expect(called("allow")[0].name).toBe("erin from the lab");
  });

  test("of somebody who is let in keep the end date, and show the owner's name", async () => {
    client.receive({ state: { pending: [{ node_id: DAVE, name: "root", model: "qwen3:8b", when: 0 }] } });
    expect(el.querySelector(".dpc-fw-pending").textContent).not.toContain("root");
    await allow("Allow this model");
    expect(called("allow")).toEqual([{ node_id: DAVE, model: "qwen3:8b", expires: null, name: null }]);
  });

  test("can be dismissed, and say why they could not", async () => {
    kernel.dismiss = () => { throw Error("The file is locked."); };
    await push("Dismiss");
    expect(called("dismiss")).toEqual([{ node_id: ERIN }]);
    expect(el.querySelector(".dpc-fw-pending [role=alert]").textContent).toBe("The file is locked.");
  });
});

describe("the dry run", () => {
  test("answers while one types, with the line", async () => {
    kernel.explain = () => ({ allowed: false, sentence: "no: line 14, allowed_models of dave: llama3.1:8b", line: 14 });
    await type("Who", "dave", "input");
    await type("Model", "qwen3:8b", "input");
    await vi.waitFor(() => expect(called("explain")).toEqual([{ who: "dave", model: "qwen3:8b" }]));
    await settle();
    expect(el.querySelector(".dpc-fw-answer").textContent).toBe("No: line 14, allowed_models of dave: llama3.1:8b");
  });

  test("asks again when the file changes", async () => {
    kernel.explain = () => ({ allowed: client.state.access.sharing, sentence: "yes: line 5", line: 5 });
    await type("Who", "dave", "input");
    await vi.waitFor(() => expect(el.querySelector(".dpc-fw-answer").textContent).toMatch(/^Yes/));
    change({ sharing: false });
    await vi.waitFor(() => expect(el.querySelector(".dpc-fw-answer").textContent).toMatch(/^No/));
  });
});

test("an invalid file is told, and nothing that could overwrite it is offered", async () => {
  await push("Edit dave");
  await type("Name", "david");
  change({ error: "line 14, column 3: expected a comma" });
  expect(el.querySelector("[role=alert]").textContent).toContain("nobody is let in. line 14, column 3");
  expect(el.querySelector("[role=switch], table, .dpc-fw-draft, .dpc-primary")).toBe(null);
  change({ error: null });
  expect(row("david")).toBeTruthy();
});

test("before the first state, and with a lost link, it says so", () => {
  show({});
  expect(el.textContent).toContain("Reading the access file");
  client.setLink("lost");
  expect(el.textContent).toContain("Nothing here yet");
});

test("edits apply on top of the file without touching it", () => {
  const frozen = JSON.stringify(ACCESS);
  const next = withEdits(ACCESS, [
    { kind: "group", name: "lab", allowed: true }, { kind: "group", name: "lab", members: { add: [DAVE, ERIN] } },
    { kind: "person", node_id: DAVE, limits: { queued: 2 } }, { kind: "group", name: "friends", members: { remove: [ANNA] } },
  ]);
  expect(JSON.stringify(ACCESS)).toBe(frozen);
  expect(next.people.map((each) => [each.node_id, each.groups])).toEqual([[DAVE, ["lab"]], [ANNA, []], [ERIN, ["lab"]]]);
  expect(next.people[0].limits).toEqual({ ...NO_LIMITS, running: 1, queued: 2 });
});

describe("refused requests under the keyboard", () => {
  const asked = (...ids) => ids.map((node_id) => ({ node_id, name: "x", model: "m", when: 0 }));
  const shown = () => [...el.querySelectorAll(".dpc-fw-pending .dpc-fw-id")].map((each) => each.title.split(" ").at(-1));

  test("stay where they are while a newer one comes, and one that is gone leaves its place empty", async () => {
    client.receive({ state: { pending: asked(ERIN, DAVE) } });
    [...el.querySelectorAll(".dpc-fw-pending button")].find((each) => each.textContent === "Dismiss").focus();
    client.receive({ state: { pending: asked(ANNA, ERIN, DAVE) } });
    expect(shown()).toEqual([ERIN, DAVE]);
    client.receive({ state: { pending: asked(ANNA, ERIN) } });
    expect(shown()).toEqual([ERIN, DAVE]);
    expect(el.querySelectorAll(".dpc-fw-pending")[1].querySelector("[type=submit]")).toBeNull();
    document.activeElement.blur();
    await settle();
    expect(shown()).toEqual([ANNA, ERIN]);
  });

  test("a review says who would get more", async () => {
    kernel.preview = () => ({ changed: true, lines: [{ sign: "+", text: "x" }], gains: ["dave"] });
    await push("Edit dave");
    await type("Requests at once", "5");
    await push("Review");
    await settle();
    expect(el.querySelector(".dpc-fw-draft").textContent).toContain("More than before would be open to: dave");
  });
});
