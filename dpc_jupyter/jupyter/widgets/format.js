// Numbers and facts as the words of the notebook: pure, text in, text out. `t` translates.

/** The text as it is, with %1, %2, … filled in: where nobody translates. */
export function untranslated(text, ...args) {
  return text.replace(/%(\d)/g, (whole, number) => args[number - 1] ?? whole);
}

/** 18204 -> "18,204" */
export function count(number) {
  return Math.round(number ?? 0).toLocaleString("en");
}

/** 1.6 -> "2 ms", 0.3 -> "<1 ms", 1500 -> "1.5 s" */
export function rtt(ms) {
  if (ms === null || ms === undefined) return "";
  return ms < 1 ? "<1 ms" : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Of seconds: "1 s", "40 s", "3 min", "2 h" */
export function duration(seconds) {
  if (seconds >= 7200) return `${Math.round(seconds / 3600)} h`;
  return seconds >= 120 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds)} s`;
}

/** Of unix seconds: "just now", "3 min ago", "2 h ago", "5 days ago" */
export function ago(unix_s, t, now_s = Date.now() / 1000) {
  const seconds = now_s - unix_s;
  if (seconds >= 2 * 86400) return t("%1 days ago", Math.floor(seconds / 86400));
  if (seconds >= 3600) return t("%1 h ago", Math.floor(seconds / 3600));
  return seconds >= 60 ? t("%1 min ago", Math.floor(seconds / 60)) : t("just now");
}

/** 8192 -> "8k" */
export function contextWindow(tokens) {
  return tokens ? `${Math.floor(tokens / 1024) || 1}k` : "";
}

/** 2 -> "2nd" */
export function ordinal(number) {
  const teens = [11, 12, 13].includes(number % 100);
  return `${number}${(!teens && { 1: "st", 2: "nd", 3: "rd" }[number % 10]) || "th"}`;
}

/** "64 tokens/s" */
export function tokensPerSecond(rate, t) {
  return t("%1 tokens/s", rate > 0 && rate < 1 ? "<1" : count(rate));
}

/** "dpc-node-51d3…e07a"; whole where it is short. */
export function shortId(node_id) {
  return node_id.length > 24 ? `${node_id.slice(0, 13)}…${node_id.slice(-4)}` : node_id;
}

/** The parts that say something, in a line. */
export function line(...parts) {
  return parts.flat().filter(Boolean).join(" · ");
}

/** ["8k", "vision", "warm"] */
export function modelFacts(model, t) {
  const warm = model.warm === null || model.warm === undefined ? "" : model.warm ? t("warm") : t("cold");
  return [contextWindow(model.context_window), model.vision && t("vision"), warm].filter(Boolean);
}

/** What the mark of a host says. */
export function hostState(host, t) {
  const words = { ready: t("ready"), busy: t("busy"), known: t("not linked"), unreachable: t("unreachable") };
  return words[host.state] ?? host.state;
}

/** "TLS", "2 ms" */
export function linkFacts(host) {
  return [host.kind !== "local" && host.kind, rtt(host.rtt_ms)].filter(Boolean);
}

/** What a title has room for: the whole reason, and what was tried before it was linked. */
export function hostDetails(host) {
  return [host.reason, host.tried].filter(Boolean).join("\n");
}

/** "2 waiting, about 40 s", "1 running", "idle", or nothing where the host does not say. */
export function queueFacts(host, t) {
  if (host.waiting > 0) {
    const eta = host.eta_s === null || host.eta_s === undefined ? "" : duration(Math.max(1, host.eta_s));
    return eta ? t("%1 waiting, about %2", host.waiting, eta) : t("%1 waiting", host.waiting);
  }
  if (host.running > 0) return t("%1 running", host.running);
  return host.waiting === 0 ? t("idle") : "";
}

/** Why a host is not there, in short, and since when; what else there is to say of one, whole. */
export function absenceFacts(host, t) {
  const lost = host.state === "unreachable";
  const since = (lost || host.state === "known") && host.last_seen && t("last seen %1", ago(host.last_seen, t));
  return [since, lost ? inShort(host.reason) : host.reason].filter(Boolean);
}

/** The kernel's reason without addresses and advice: "nothing listens there". The whole of it belongs in a title. */
function inShort(reason) {
  const [sentence] = reason.replace(/^disconnected: (it said goodbye: )?/, "").split(/[.?!](?:\s|$)/);
  const short = sentence
    .replace(/^the node is shutting down$/, "it shut down")
    .replace(/ at \S+:\d+(?= |$)/, " there")
    .replace(/ to \S+:\d+: .*$/, "")
    .replace(/^the connection broke \(.*\)$/, "the connection broke");
  return short.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
}

/** Where a request stands: "2nd in line", "loading the model", "312 tokens" */
export function requestProgress(request, t) {
  const waited = request.waited_s >= 2 && duration(request.waited_s);
  if (request.state === "queued") {
    return line(request.position ? t("%1 in line", ordinal(request.position)) : t("in line"), waited);
  }
  if (request.state === "loading") return line(t("loading the model"), waited);
  if (!request.tokens) return line(t("reading the prompt"), waited);
  return t("%1 tokens", count(request.tokens));
}
