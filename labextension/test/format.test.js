import { describe, expect, test } from "vitest";
import {
  absenceFacts, ago, contextWindow, count, duration, hostState, line, linkFacts, modelFacts, ordinal, queueFacts, requestProgress, rtt,
  shortId, tokensPerSecond, untranslated as t,
} from "../../dpc_jupyter/jupyter/widgets/format.js";

describe("format", () => {
  test.each([
    [null, ""], [undefined, ""], [0, "<1 ms"], [0.4, "<1 ms"], [2.1, "2 ms"], [999, "999 ms"], [1500, "1.5 s"],
  ])("a round trip of %s ms reads %s", (ms, text) => expect(rtt(ms)).toBe(text));

  test.each([[0, "just now"], [59, "just now"], [180, "3 min ago"], [7300, "2 h ago"], [90_000, "25 h ago"], [5 * 86_400, "5 days ago"],
    [-30, "just now"]])("%s s ago reads %s", (seconds, text) => expect(ago(1e9 - seconds, t, 1e9)).toBe(text));

  test.each([[0, "0 s"], [40.4, "40 s"], [119, "119 s"], [180, "3 min"], [7200, "2 h"]])("%s s last %s", (seconds, text) =>
    expect(duration(seconds)).toBe(text));

  test.each([[null, ""], [0, ""], [512, "1k"], [8192, "8k"], [131_072, "128k"]])("a window of %s reads %s", (tokens, text) =>
    expect(contextWindow(tokens)).toBe(text));

  test("ordinals are the house's", () => expect([1, 2, 3, 4, 11, 12, 13, 21, 111].map(ordinal).join()).toBe(
    "1st,2nd,3rd,4th,11th,12th,13th,21st,111th"));

  test("counts, rates, ids", () => {
    expect(count(18204)).toBe("18,204");
    expect(count(undefined)).toBe("0");
    const rates = [0, 0.31, 3.14, 64.4].map((rate) => tokensPerSecond(rate, t));
    expect(rates).toEqual(["0 tokens/s", "<1 tokens/s", "3 tokens/s", "64 tokens/s"]);
    expect(shortId("dpc-node-51d39b0c77aa41e08c11d2f3a4b5e07a")).toBe("dpc-node-51d3…e07a");
    expect(shortId("dpc-node-short")).toBe("dpc-node-short");
  });

  test("places are filled in, an argument's own % is not", () => {
    expect(t("%1 of %2, %load_ext", "%2", 3)).toBe("%2 of 3, %load_ext");
    expect(t("%1")).toBe("%1");
  });

  test("a line has only what says something", () => expect(line("a", "", null, ["b", false])).toBe("a · b"));
});

describe("facts", () => {
  test("of a model", () => {
    expect(modelFacts({ context_window: 8192, vision: true, warm: false }, t)).toEqual(["8k", "vision", "cold"]);
    expect(modelFacts({ context_window: null, vision: false, warm: null }, t)).toEqual([]);
  });

  test.each([
    [{ waiting: 2, eta_s: 40 }, "2 waiting, about 40 s"], [{ waiting: 2, eta_s: null }, "2 waiting"], [{ waiting: 1, eta_s: 0.2 }, "1 waiting, about 1 s"],
    [{ waiting: 0, running: 3 }, "3 running"], [{ waiting: 0, running: 0 }, "idle"], [{ waiting: null, running: null }, ""],
  ])("of a queue: %o", (host, text) => expect(queueFacts(host, t)).toBe(text));

  test("of the way to a host, and of one that is away", () => {
    expect(linkFacts({ kind: "TLS", rtt_ms: 2 })).toEqual(["TLS", "2 ms"]);
    expect(linkFacts({ kind: "local", rtt_ms: null })).toEqual([]);
    expect(hostState({ state: "known" }, t)).toBe("not linked");
    expect(absenceFacts({ state: "unreachable", last_seen: Date.now() / 1000 - 7300, reason: "no path" }, t)).toEqual(["last seen 2 h ago", "no path"]);
    expect(absenceFacts({ state: "ready", last_seen: 1, reason: "" }, t)).toEqual([]);
  });

  test.each([
    ["Nothing listens at 127.0.0.1:43727. Is the host started and sharing?", "nothing listens there"],
    ["Nothing answered at [::1]:8889 within 5 s. Is the host up, the port open?", "nothing answered there within 5 s"],
    ["What listens at lab:8889 does not speak TLS as a node does.", "what listens there does not speak TLS as a node does"],
    ["No connection to 192.0.2.7:8889: [Errno 113] No route to host.", "no connection"],
    ["disconnected: it said goodbye: the node is shutting down", "it shut down"],
    ["disconnected: the connection broke ([Errno 104] reset)", "the connection broke"],
    ["disconnected: the peer closed the connection", "the peer closed the connection"],
    ["", ""],
  ])("of the reason of one that is away, in short: %s", (reason, short) =>
    expect(absenceFacts({ state: "unreachable", last_seen: null, reason }, t)).toEqual(short ? [short] : []));

  test("of the reason of one that is there, whole", () => {
    const reason = "No model runs here. Install Ollama, or restart.";
    expect(absenceFacts({ state: "ready", last_seen: 1, reason }, t)).toEqual([reason]);
  });

  test.each([
    [{ state: "queued", position: 2, waited_s: 12 }, "2nd in line · 12 s"], [{ state: "queued", position: null, waited_s: 0 }, "in line"],
    [{ state: "loading", waited_s: 3 }, "loading the model · 3 s"], [{ state: "running", tokens: 0, waited_s: 0 }, "reading the prompt"],
    [{ state: "running", tokens: 312 }, "312 tokens"], [{ state: "running", tokens: 5 }, "5 tokens"],
  ])("of a request: %o", (request, text) => expect(requestProgress(request, t)).toBe(text));
});
