// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Calls, Client, linkSentence, mounted, uuid, widgetClient } from "../../dpc_jupyter/jupyter/widgets/client.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

const settled = () => vi.advanceTimersByTimeAsync(0);

function pair() {
  const sent = [];
  const client = new Client((message) => sent.push(message), { id: "me" });
  return { client, sent };
}

describe("a call", () => {
  test("goes up with names, and its reply comes back", async () => {
    const { client, sent } = pair();
    const result = client.call("choose", { host: "a", model: null });
    expect(sent).toEqual([{ client: "me", id: expect.any(String), method: "choose", params: { host: "a", model: null } }]);
    client.receive({ reply: "of somebody else", result: 1 });
    client.receive({ reply: sent[0].id, result: { id: "a" } });
    expect(await result).toEqual({ id: "a" });
  });

  test("fails with the kernel's sentence", async () => {
    const { client, sent } = pair();
    const result = client.call("connect", {});
    client.receive({ reply: sent[0].id, error: "carol is not connected." });
    await expect(result).rejects.toThrow(/^carol is not connected\.$/);
  });

  test("fails after 30 s of silence, and a late reply harms nobody", async () => {
    const { client, sent } = pair();
    const result = expect(client.call("usage")).rejects.toThrow("has not answered for 30 s");
    await vi.advanceTimersByTimeAsync(30_000);
    await result;
    client.receive({ reply: sent[0].id, result: 1 });
  });

  test("fails at once when there is no kernel", async () => {
    const client = new Client(() => { throw new Error("Kernel is dead"); });
    await expect(client.call("usage")).rejects.toThrow("The kernel cannot be reached");
  });

  test("fails when the view closes", async () => {
    const { client } = pair();
    const result = client.call("usage");
    client.dispose();
    await expect(result).rejects.toThrow("closed");
  });
});

describe("state", () => {
  test("is asked for by the first who listens, and told by section", () => {
    const { client, sent } = pair();
    expect(sent).toHaveLength(0);
    const heard = vi.fn();
    const stop = client.onState(heard);
    client.onState(() => {});
    expect(sent.map((each) => each.method)).toEqual(["state"]);
    client.receive({ state: { node: { name: "bob" }, hosts: [] } });
    expect(heard).toHaveBeenLastCalledWith({ node: { name: "bob" }, hosts: [] }, ["node", "hosts"]);
    client.receive({ state: { node: { name: "bob" }, hosts: [1] } });
    expect(heard).toHaveBeenLastCalledWith({ node: { name: "bob" }, hosts: [1] }, ["hosts"]);
    client.receive({ state: { hosts: [1] } });
    expect(heard).toHaveBeenCalledTimes(2);
    stop();
    client.receive({ state: { hosts: [] } });
    expect(heard).toHaveBeenCalledTimes(2);
    client.dispose();
  });

  test("may be the reply itself", async () => {
    const { client, sent } = pair();
    client.onState(() => {});
    client.receive({ reply: sent[0].id, result: { node: 1 } });
    await settled();
    expect(client.state).toEqual({ node: 1 });
    client.dispose();
  });

  test("is asked for every 20 s, one beat at a time, while somebody listens", async () => {
    const { client, sent } = pair();
    const stop = client.onState(() => {});
    await vi.advanceTimersByTimeAsync(25_000);
    expect(sent).toHaveLength(1);
    client.receive({ reply: sent[0].id, result: null });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(sent).toHaveLength(2);
    client.receive({ reply: sent[1].id, result: null });
    await settled();
    document.dispatchEvent(new Event("visibilitychange"));
    expect(sent).toHaveLength(3);
    client.receive({ reply: sent[2].id, result: null });
    stop();
    await vi.advanceTimersByTimeAsync(100_000);
    expect(sent).toHaveLength(3);
  });

  test("of the link: a silent kernel is lost, a word brings it back", async () => {
    const { client } = pair();
    const heard = vi.fn();
    client.onState(heard);
    expect(linkSentence(client, t)).toBe("");
    await vi.advanceTimersByTimeAsync(30_000);
    expect(client.link).toBe("lost");
    expect(heard).toHaveBeenLastCalledWith({}, ["link"]);
    expect(linkSentence(client, t)).toContain("%load_ext dpc_jupyter");
    client.receive({ state: { node: 1 } });
    expect(client.link).toBe("live");
    client.setLink("lost");
    expect(linkSentence(client, t)).toContain("may be old");
    client.dispose();
  });
});

test("word of a chat goes to those who listen", () => {
  const { client } = pair();
  const heard = vi.fn();
  const stop = client.onChat(heard);
  client.receive({ chat: { chat: "c" } });
  stop();
  client.receive({ chat: { chat: "d" } });
  expect(heard.mock.calls).toEqual([[{ chat: "c" }]]);
});

test("names are unlike", () => {
  expect(uuid()).toMatch(/^[0-9a-f]{32}$/);
  expect(uuid()).not.toBe(uuid());
});

function fakeModel(widget_manager) {
  const callbacks = new Map();
  return {
    sent: [],
    get: (name) => (name === "client" ? "model-1" : undefined),
    send(message) { this.sent.push(message); },
    on: (name, callback) => callbacks.set(name, callback),
    off: (name) => callbacks.delete(name),
    down: (message) => callbacks.get("msg:custom")(message),
    callbacks,
    widget_manager,
  };
}

function fakeComm() {
  const comm = { sent: [], closed: false, send: (message) => comm.sent.push(message), on_close: (callback) => { comm.end = callback; } };
  comm.close = () => { comm.closed = true; };
  return comm;
}

describe("a widget", () => {
  test("calls through a comm of its own, and hears its custom messages", async () => {
    const comm = fakeComm();
    const _create_comm = vi.fn(async () => comm);
    const model = fakeModel({ _create_comm });
    const client = widgetClient(model);
    expect(client.id).toBe("model-1");
    const result = client.call("usage");
    await settled();
    expect(_create_comm).toHaveBeenCalledWith("dpc.rpc", expect.any(String), {});
    expect(comm.sent).toMatchObject([{ client: "model-1", method: "usage" }]);
    model.down({ reply: comm.sent[0].id, result: 7 });
    expect(await result).toBe(7);
    expect(model.sent).toEqual([]);
    client.dispose();
    await settled();
    expect([model.callbacks.size, comm.closed]).toEqual([0, true]);
  });

  test.each([
    ["there is no manager", undefined],
    ["the manager makes none", {}],
    ["it fails", { _create_comm: async () => { throw new Error("no"); } }],
  ])("calls as a widget does where %s", async (_, manager) => {
    const model = fakeModel(manager);
    widgetClient(model).call("usage").catch(() => {});
    await settled();
    expect(model.sent).toMatchObject([{ method: "usage" }]);
  });

  test("calls as a widget does once the kernel has closed the comm, or forgotten it", async () => {
    const comm = fakeComm();
    const model = fakeModel({ _create_comm: async () => comm });
    const client = widgetClient(model);
    await settled();
    client.setLink("lost");
    client.call("state").catch(() => {});
    await settled();
    expect(model.sent).toHaveLength(1);
    model.down({ state: {} });
    client.call("usage").catch(() => {});
    await settled();
    expect(comm.sent).toHaveLength(1);
    comm.end();
    client.call("usage").catch(() => {});
    await settled();
    expect(model.sent).toHaveLength(2);
    client.dispose();
  });

  describe("of a kernel that was restarted", () => {
    test("says what to do as soon as the widget manager has seen it", () => {
      const model = fakeModel(undefined), client = widgetClient(model);
      model.callbacks.get("comm_live_update")();
      expect(linkSentence(client, t)).toBe("The kernel was restarted, and what you see is old: "
        + "run %load_ext dpc_jupyter in a cell, then this one again.");
      client.dispose();
      expect(model.callbacks.size).toBe(0);
    });

    test("says it when its comms have gone, and no silence after it makes that a kernel that is busy", async () => {
      const comm = fakeComm(), model = fakeModel({ _create_comm: async () => comm });
      const client = widgetClient(model);
      client.onState(() => {});
      await settled();
      comm.send = () => { throw new Error("Comm is disposed"); };
      await expect(client.call("chat_ask")).rejects.toThrow(/^The kernel was restarted: run this cell again\.$/);
      expect(client.link).toBe("ended");
      await vi.advanceTimersByTimeAsync(60_000);
      expect(client.link).toBe("ended");
      comm.close = vi.fn(() => { throw new Error("Cannot close"); });
      client.dispose();
      await settled(); // an unhandled rejection would fail this run
      expect(comm.close).toHaveBeenCalled();
    });
  });

  test("is drawn into its element, and cleans up", () => {
    const model = fakeModel(undefined);
    const el = document.createElement("div");
    const dispose = vi.fn();
    const view = vi.fn(() => dispose);
    const cleanup = mounted(view)({ model, el });
    expect(view).toHaveBeenCalledWith(el, expect.any(Client), t);
    expect(el.hasAttribute("data-lm-suppress-shortcuts")).toBe(true);
    const input = el.appendChild(document.createElement("input"));
    const lab = vi.fn();
    input.addEventListener("beforeinput", lab);
    input.dispatchEvent(new InputEvent("beforeinput", { bubbles: true, inputType: "insertLineBreak" }));
    expect(lab).not.toHaveBeenCalled();
    cleanup();
    expect(dispose).toHaveBeenCalled();
    expect(model.callbacks.size).toBe(0);
  });
});

describe("the calls of a view", () => {
  test("are busy, then done or failed, by place; twice at a place is once", async () => {
    const answers = [];
    const call = vi.fn(() => new Promise((resolve, reject) => answers.push({ resolve, reject })));
    const changed = vi.fn();
    const calls = new Calls({ call }, changed);
    const first = calls.run("a", "share", { on: true });
    expect(await calls.run("a", "share", { on: true })).toBeUndefined();
    expect([calls.busy("a"), calls.busy("b"), call.mock.calls.length]).toEqual([true, false, 1]);
    answers[0].reject(new Error("Port taken."));
    expect(await first).toBeUndefined();
    expect([calls.busy("a"), calls.error("a")]).toEqual([false, "Port taken."]);
    const second = calls.run("a", "share", { on: true });
    expect(calls.error("a")).toBeUndefined();
    answers[1].resolve(null);
    expect(await second).toBe(true);
    expect(changed).toHaveBeenCalledTimes(4);
  });
});
