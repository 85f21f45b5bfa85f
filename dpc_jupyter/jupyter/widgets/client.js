// The kernel, as views see it: the last state, calls, and word of changes. The way of the messages is somebody else's.
import { untranslated } from "./format.js";

const BEAT_MS = 20_000;
const CALL_MS = 30_000;

/** A name that nobody else has; crypto.randomUUID is missing on plain http. */
export function uuid() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * One face of the kernel: `send` takes a message up (and may be async, or throw when the kernel is gone); whoever hears
 * messages gives them to `receive`. While anybody listens to its state, it says every 20 s that it is there.
 */
export class Client {
  state = {};
  link = "live";
  #calls = new Map();
  #stateCallbacks = new Set();
  #chatCallbacks = new Set();
  #beating = false;
  #timer = null;

  constructor(send, { id = uuid(), t = untranslated } = {}) {
    this.id = id;
    this.#send = send;
    this.#t = t;
  }

  #send;
  #t;

  /** The result, or an Error with one sentence to show in place. */
  call(method, params = {}) {
    const id = uuid();
    return new Promise((resolve, reject) => {
      const fail = (sentence) => {
        this.#settle(id, { error: sentence });
        if (method === "state" && this.link !== "ended") this.setLink("lost");
      };
      const late = () => fail(this.#t("The kernel has not answered for 30 s: it is busy or gone."));
      const timer = setTimeout(late, CALL_MS);
      this.#calls.set(id, { resolve, reject, timer });
      const send = async () => this.#send({ client: this.id, id, method, params });
      send().catch(() => fail(this.link === "ended" ? this.#t("The kernel was restarted: run this cell again.")
        : this.#t("The kernel cannot be reached: is it running?")));
    });
  }

  /** `callback` gets the state and the names of its changed sections ("link" for the link). Returns how to stop. */
  onState(callback) {
    this.#stateCallbacks.add(callback);
    if (this.#timer === null) this.#open();
    return () => {
      this.#stateCallbacks.delete(callback);
      if (!this.#stateCallbacks.size) this.#close();
    };
  }

  /** `callback` gets what is new of a chat. Returns how to stop. */
  onChat(callback) {
    this.#chatCallbacks.add(callback);
    return () => this.#chatCallbacks.delete(callback);
  }

  /** A message came down. */
  receive({ state, reply, result, error, chat }) {
    this.setLink("live");
    // A beat is answered with all of it: tell of what is new alone.
    const same = (name) => JSON.stringify(this.state[name]) === JSON.stringify(state[name]);
    const changed = Object.keys(state ?? {}).filter((name) => !same(name));
    if (changed.length) {
      this.state = { ...this.state, ...state };
      this.#tell(changed);
    }
    if (reply) this.#settle(reply, { result, error });
    if (chat) for (const callback of this.#chatCallbacks) callback(chat);
  }

  /** "live"; "lost": the kernel is gone, or silent, or has not loaded us; "ended": it is another one than a widget's. */
  setLink(link) {
    if (link === this.link) return;
    this.link = link;
    this.#tell(["link"]);
  }

  /** No more of it; what is asked for fails. */
  dispose() {
    this.#stateCallbacks.clear();
    this.#chatCallbacks.clear();
    this.#close();
    for (const id of this.#calls.keys()) this.#settle(id, { error: this.#t("This view was closed.") });
  }

  #tell(changed) {
    for (const callback of [...this.#stateCallbacks]) callback(this.state, changed);
  }

  #settle(id, { result, error }) {
    const call = this.#calls.get(id);
    if (!call) return;
    this.#calls.delete(id);
    clearTimeout(call.timer);
    if (error === undefined) call.resolve(result);
    else call.reject(new Error(error));
  }

  // A busy kernel hears beats late: one at a time, or it would have to answer all of them at once.
  #beat = async () => {
    if (this.#beating) return;
    this.#beating = true;
    try {
      const state = await this.call("state");
      if (state) this.receive({ state });
    } catch {
      // The link says it.
    } finally {
      this.#beating = false;
    }
  };

  // Timers sleep in a hidden page: after it, the kernel may have forgotten us.
  #seen = () => document.hidden || this.#beat();

  #open() {
    this.#timer = setInterval(this.#beat, BEAT_MS);
    document.addEventListener("visibilitychange", this.#seen);
    this.#beat();
  }

  #close() {
    clearInterval(this.#timer);
    this.#timer = null;
    document.removeEventListener("visibilitychange", this.#seen);
  }
}

/** The client of an anywidget; its trait `client` names it. */
export function widgetClient(model) {
  let comm = null;
  // Calls on a comm that the page opens are heard while a cell runs, a widget's own messages are not.
  const opened = (async () => {
    comm = (await model.widget_manager?._create_comm?.("dpc.rpc", uuid(), {})) ?? null;
    comm?.on_close?.(() => { comm = null; });
  })().catch(() => {});
  // A widget's comm ends with its kernel, and no kernel after it knows that widget.
  const end = () => client.setLink("ended");
  const client = new Client(async (message) => {
    await opened;
    try {
      // A kernel that does not know us (any more) learns of us through the widget.
      if (comm && client.link === "live") comm.send(message);
      else model.send(message);
    } catch (error) {
      end();
      throw error;
    }
  }, { id: model.get("client") || undefined });
  const receive = (message) => client.receive(message);
  model.on("msg:custom", receive);
  model.on("comm_live_update", end); // the widget manager has seen a restart; where it sees none, the next message does
  const dispose = client.dispose.bind(client);
  client.dispose = () => {
    model.off("msg:custom", receive);
    model.off("comm_live_update", end);
    dispose();
    opened.then(() => comm?.close?.()).catch(() => {}); // its kernel has gone
  };
  return client;
}

/** A view as the `render` of an anywidget. */
export function mounted(view) {
  return ({ model, el }) => {
    // Else JupyterLab takes arrows and Enter for the notebook's, and Enter in a cell's inputs does nothing.
    el.setAttribute("data-lm-suppress-shortcuts", "true");
    el.addEventListener("beforeinput", (event) => event.stopPropagation(), true);
    const client = widgetClient(model);
    const dispose = view(el, client, untranslated);
    return () => {
      dispose();
      client.dispose();
    };
  };
}

/** The calls of one view: which are under way, and why the last failed, by the place that shows it. */
export class Calls {
  #client;
  #changed;
  #busy = new Set();
  #errors = new Map();

  constructor(client, changed) {
    this.#client = client;
    this.#changed = changed;
  }

  busy(place) {
    return this.#busy.has(place);
  }

  error(place) {
    return this.#errors.get(place);
  }

  /** The result (true for none), or undefined when it failed or is under way at that place already. */
  async run(place, method, params) {
    if (this.#busy.has(place)) return undefined;
    this.#busy.add(place);
    this.#errors.delete(place);
    this.#changed();
    try {
      return (await this.#client.call(method, params)) ?? true;
    } catch (error) {
      this.#errors.set(place, error.message);
      return undefined;
    } finally {
      this.#busy.delete(place);
      this.#changed();
    }
  }

  /** Show no error there any more. */
  forget(place) {
    this.#errors.delete(place);
  }
}

/** What a lost link means to a reader; nothing while it is live. */
export function linkSentence(client, t) {
  if (client.link === "live") return "";
  if (client.link === "ended") {
    return t("The kernel was restarted, and what you see is old: run %load_ext dpc_jupyter in a cell, then this one again.");
  }
  return Object.keys(client.state).length
    ? t("No word from the kernel: what you see may be old.")
    : t("Nothing here yet: run %load_ext dpc_jupyter in a cell, then this one again.");
}
