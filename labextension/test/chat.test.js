// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { chat } from "../../dpc_jupyter/jupyter/widgets/chat.js";
import { Client } from "../../dpc_jupyter/jupyter/widgets/client.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";

const EVIL = '<img src=x onerror="globalThis.pwned=1">';
const model = (name) => ({ model: name, provider: "ollama", context_window: 8192, vision: false, warm: true });
const host = (id, name, state, ...models) => ({
  id, name, state, kind: "TLS", rtt_ms: 2, reason: "", last_seen: null, waiting: 0, running: 0, eta_s: null, models: models.map(model),
});
const STATE = {
  hosts: [host("local", "Local", "ready", "smollm2"), host("a", "anna", "busy", "llama3-70b", "llava"), host("c", "carol", "unreachable", "phi")],
  chosen: { id: "a", name: "anna", model: null },
};
const CHOSEN = { id: "a", name: "anna", model: "llama3-70b" };
const message = (id, role, text, more = {}) => ({ id, role, text, html: null, foot: "", streaming: false, ...more });
const ASKED = message("1", "user", "Why?");

let el, client, sent, whole, kernel, stop, count;

function show() {
  sent = [];
  count = 0;
  kernel = { chat_state: () => whole && { count, ...whole } };
  client = new Client(({ id, method, params }) => {
    if (method === "state") return;
    sent.push([method, params]);
    queueMicrotask(() => {
      try {
        client.receive({ reply: id, result: kernel[method]?.(params) ?? null });
      } catch (error) {
        client.receive({ reply: id, error: error.message });
      }
    });
  });
  client.id = "c1";
  client.receive({ state: structuredClone(STATE) });
  el = document.createElement("div");
  document.body.replaceChildren(el);
  stop = chat(el, client, t);
  return settle();
}

const settle = () => new Promise((done) => setTimeout(done));
const tell = (news, running = false) => client.receive({ chat: { chat: "c1", count: ++count, running, ...news } });
const push = (label) => {
  [...el.querySelectorAll("button")].find((each) => each.textContent === label || each.getAttribute("aria-label") === label).click();
  return settle();
};
const prompt = () => el.querySelector("textarea");
const key = (name, more = {}) => {
  const event = new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...more });
  prompt().dispatchEvent(event);
  return settle().then(() => event.defaultPrevented);
};
const ask = (text) => {
  prompt().value = text;
  return key("Enter");
};
const called = (method) => sent.filter(([name]) => name === method).map(([, params]) => params);
const texts = () => [...el.querySelectorAll("article")].map((each) => `${each.getAttribute("aria-label")}: ${each.textContent}`);
const select = () => el.querySelector("select");
const choices = () => [...select().options].map(({ text, disabled }) => [text, disabled]);

beforeEach(() => {
  whole = null;
  return show();
});
afterEach(() => stop());

describe("the transcript", () => {
  test("is asked for again when news was missed", async () => {
    tell({ message: ASKED });
    whole = { chat: "c1", chosen: null, running: false, messages: [ASKED, message("2", "assistant", "So.")] };
    sent.length = 0;
    count++; // this one was lost
    tell({ message: ASKED });
    await settle();
    expect([called("chat_state").length, texts()]).toEqual([1, ["You: Why?", "Answer: So.Copy"]]);
  });

  test("that is older than the news is not shown", async () => {
    const old = { chat: "c1", count: 0, chosen: null, running: true, messages: [ASKED] };
    const answers = [old, { ...old, count: 2, running: false, messages: [ASKED, message("2", "assistant", "So.")] }];
    kernel.chat_state = () => answers.shift();
    client.setLink("lost");
    client.setLink("live"); // asks for it
    tell({ message: ASKED });
    tell({ message: message("2", "assistant", "So.") });
    await settle();
    await settle();
    expect([answers.length, texts()]).toEqual([0, ["You: Why?", "Answer: So.Copy"]]);
  });

  test("is what the kernel holds: a second view shows the same", async () => {
    whole = { chat: "c1", chosen: CHOSEN, running: false, messages: [ASKED, message("2", "assistant", "So."), message("3", "error", "carol is gone.")] };
    stop();
    await show();
    expect(texts()).toEqual(["You: Why?", "Answer: So.Copy", "Error: carol is gone."]);
  });

  test("streams plain text, with a caret, and turns to the kernel's html once", () => {
    tell({ message: ASKED }, true);
    tell({ message: message("2", "assistant", "**So", { streaming: true, foot: "64 tokens/s" }) }, true);
    const article = el.querySelectorAll("article")[1];
    expect([article.textContent, Boolean(article.querySelector(".dpc-chat-streaming"))]).toEqual(["**So64 tokens/s", true]);
    const html = "<p><strong>So</strong></p>";
    tell({ message: message("2", "assistant", "**So**", { html, foot: "anna · 2 tokens" }) });
    expect(el.querySelectorAll("article")[1]).toBe(article);
    const body = article.querySelector(".dpc-chat-html"), strong = body.querySelector("strong");
    expect([body.innerHTML, Boolean(article.querySelector(".dpc-chat-streaming"))]).toEqual([html, false]);
    tell({ message: message("2", "assistant", "**So**", { html, foot: "anna · 2 tokens · 1 s" }) });
    expect(article.querySelector("strong")).toBe(strong);
  });

  test("shows everything but the kernel's html as text", () => {
    tell({ messages: [message("1", "user", EVIL), message("2", "assistant", EVIL, { foot: EVIL }), message("3", "error", EVIL)] });
    client.receive({ state: { hosts: [host(EVIL, EVIL, "ready", EVIL)], chosen: { id: EVIL, name: EVIL, model: EVIL } } });
    expect(el.textContent).toContain(EVIL);
    expect(el.querySelector("img")).toBe(null);
    expect(globalThis.pwned).toBe(undefined);
  });

  test("is not another chat's", () => {
    client.receive({ chat: { chat: "c2", running: true, message: ASKED } });
    expect(texts()).toEqual([]);
  });

  test("is empty after Clear", async () => {
    tell({ messages: [ASKED] });
    kernel.chat_clear = () => tell({ messages: [] });
    await push("Clear");
    expect([called("chat_clear"), texts()]).toEqual([[{ chat: "c1" }], []]);
    expect(el.textContent).toContain("Nothing asked yet.");
  });

  test("says of a question without an answer that it is no part of it", () => {
    tell({ message: { ...ASKED, foot: "No answer came." } });
    expect(texts()).toEqual(["You: Why?No answer came."]);
    expect(el.querySelector(".dpc-chat-user .dpc-chat-aside").textContent).toBe("No answer came.");
  });

  test("ends with its kernel: nothing streams any more, and the reader is told what to do", () => {
    tell({ message: message("2", "assistant", "So", { streaming: true }) }, true);
    client.setLink("ended");
    expect([el.querySelector(".dpc-chat-streaming"), el.querySelector("[aria-label=Stop]")]).toEqual([null, null]);
    expect(texts()).toEqual(["Answer: SoCopy"]);
    expect(el.querySelector("[role=status]").textContent).toContain("The kernel was restarted");
  });

  test("comes again when the kernel does", async () => {
    client.setLink("lost");
    expect(el.textContent).toContain("No word from the kernel");
    whole = { chat: "c1", chosen: CHOSEN, running: false, messages: [ASKED] };
    client.setLink("live");
    await settle();
    expect(texts()).toEqual(["You: Why?"]);
  });

  test("is read out politely, when an answer is whole", () => {
    const log = el.querySelector("[role=log]");
    tell({ message: ASKED }, true);
    expect([log.getAttribute("aria-live"), log.getAttribute("aria-busy")]).toEqual(["polite", "true"]);
    tell({ message: message("2", "assistant", "So.") });
    expect(log.getAttribute("aria-busy")).toBe("false");
  });
});

describe("copying", () => {
  let copied;
  beforeEach(() => {
    copied = vi.fn(async () => {});
    Object.defineProperty(navigator, "clipboard", { value: { writeText: copied }, configurable: true });
    tell({ message: message("2", "assistant", "Use `x`", { html: "<p>Use</p><pre><code>x = 1\n</code></pre>" }) });
  });

  test("takes an answer as it was written", async () => {
    await push("Copy the answer");
    expect(copied).toHaveBeenCalledWith("Use `x`");
    expect(el.textContent).toContain("Copied");
  });

  test("takes a code block, by a button beside it", async () => {
    await push("Copy this code");
    expect(copied).toHaveBeenCalledWith("x = 1\n");
    const block = el.querySelector("pre");
    expect([block.outerHTML, block.querySelector("button")]).toEqual(['<pre tabindex="0"><code>x = 1\n</code></pre>', null]);
    tell({ message: message("2", "assistant", "Use `x`", { html: "<p>Use</p><pre><code>x = 1\n</code></pre>", foot: "1 s" }) });
    expect(el.querySelectorAll("[aria-label='Copy this code']")).toHaveLength(1);
  });
});

describe("asking", () => {
  test("Enter sends, Shift+Enter and an unfinished composition do not", async () => {
    prompt().value = "Why?";
    expect(await key("Enter", { shiftKey: true })).toBe(false);
    expect(await key("Enter", { isComposing: true })).toBe(false);
    expect(called("chat_ask")).toEqual([]);
    expect(await key("Enter")).toBe(true);
    expect(called("chat_ask")).toEqual([{ chat: "c1", prompt: "Why?", host: null, model: null }]);
    expect(prompt().value).toBe("");
  });

  test("nothing is no question", async () => {
    await ask("  \n");
    expect(called("chat_ask")).toEqual([]);
  });

  test("a question that is not taken comes back, with the reason", async () => {
    kernel.chat_ask = () => { throw Error("anna is not connected."); };
    await ask("Why?");
    expect(prompt().value).toBe("Why?");
    expect(el.querySelector("[role=alert]").textContent).toBe("anna is not connected.");
  });

  test("one at a time; Stop stops it", async () => {
    tell({ message: ASKED }, true);
    await ask("And?");
    expect([called("chat_ask"), prompt().value]).toEqual([[], "And?"]);
    await push("Stop");
    expect(called("chat_stop")).toEqual([{ chat: "c1" }]);
    tell({ message: message("2", "assistant", "So") });
    await key("Enter");
    expect(called("chat_ask")[0].prompt).toBe("And?");
  });

  test("a double click on Ask does not stop", () => {
    tell({ message: ASKED }, true);
    el.querySelector("[aria-label=Stop]").dispatchEvent(new MouseEvent("click", { detail: 2, bubbles: true }));
    expect(called("chat_stop")).toEqual([]);
  });

  test("what is half typed stays while an answer streams", () => {
    prompt().focus();
    prompt().value = "And th";
    tell({ message: message("2", "assistant", "So", { streaming: true }) }, true);
    expect([document.activeElement, prompt().value]).toEqual([prompt(), "And th"]);
  });
});

describe("whom to ask", () => {
  test("is the notebook's host at first; one that cannot be reached is greyed", () => {
    expect(choices()).toEqual([
      ["Local · smollm2", false], ["anna · llama3-70b", false], ["anna · llava", false], ["carol · unreachable", true],
    ]);
    expect(select().selectedOptions[0].text).toBe("anna · llama3-70b");
    expect(prompt().placeholder).toBe("Ask anna…");
  });

  test("follows the notebook until the chat has a choice of its own", async () => {
    client.receive({ state: { chosen: { id: "local", name: "Local", model: null } } });
    expect(select().selectedOptions[0].text).toBe("Local · smollm2");
    tell({ messages: [], chosen: { id: "a", name: "anna", model: "llava" } });
    expect(select().selectedOptions[0].text).toBe("anna · llava");
    await ask("Why?");
    expect(called("chat_ask")[0]).toMatchObject({ host: "a", model: "llava" });
  });

  test("a choice holds for the questions after it, and while hosts come and go", async () => {
    select().value = select().options[0].value;
    select().dispatchEvent(new Event("change"));
    await ask("Why?");
    tell({ messages: [ASKED], chosen: CHOSEN });
    client.receive({ state: { hosts: [host("d", "dan", "ready", "phi"), ...STATE.hosts] } });
    await ask("And?");
    expect(called("chat_ask").map((each) => [each.host, each.model])).toEqual([["local", "smollm2"], ["local", "smollm2"]]);
    expect(select().selectedOptions[0].text).toBe("Local · smollm2");
  });

  test("of Python comes with a message, and counts after the reader's own choice was taken", async () => {
    select().value = select().options[0].value;
    select().dispatchEvent(new Event("change"));
    tell({ message: ASKED, chosen: { id: "local", name: "Local", model: "smollm2" } });
    expect(select().selectedOptions[0].text).toBe("Local · smollm2");
    tell({ message: message("2", "user", "And?"), chosen: { id: "a", name: "anna", model: "llava" } });
    expect(select().selectedOptions[0].text).toBe("anna · llava");
    tell({ message: message("3", "user", "And?"), chosen: null });
    expect(select().selectedOptions[0].text).toBe("anna · llama3-70b");
  });

  test("is still shown when it is gone", () => {
    client.receive({ state: { hosts: [STATE.hosts[0]] } });
    expect(select().selectedOptions[0].text).toBe("anna");
  });
});

test("it stays at the end, unless the reader has scrolled up", async () => {
  const log = el.querySelector("[role=log]");
  Object.defineProperties(log, { scrollHeight: { value: 1000 }, clientHeight: { value: 200 } });
  tell({ message: ASKED });
  expect(log.scrollTop).toBe(1000);
  log.scrollTop = 300;
  log.dispatchEvent(new Event("scroll"));
  tell({ message: message("2", "assistant", "So") });
  expect(log.scrollTop).toBe(300);
  await ask("And?");
  tell({ message: message("3", "user", "And?") });
  expect(log.scrollTop).toBe(1000);
});
