// A conversation with a host. The kernel holds it, so that a reload or a second view shows the same.
import { button, copyText, failure, h, mark, update } from "./dom.js";
import { hostState, line } from "./format.js";
import { Calls, linkSentence } from "./client.js";

const NEAR_END_PX = 32;

export function chat(el, client, t) {
  const calls = new Calls(client, draw);
  const number = client.id;
  const shown = new Map(); // message id -> {message, element}
  const log = h("div", {
    class: "dpc-chat-log", role: "log", "aria-live": "polite", "aria-label": t("Conversation"), tabindex: "0",
  });
  const [top, bottom] = [h("div"), h("div")];
  let running = false;
  let count = 0; // of the news that was heard
  let chosen = null; // whom this chat asks; null: whom the notebook asks
  let picked = null; // what the reader chose since: {host, model}
  let atEnd = true; // until the reader scrolls up

  el.classList.add("dpc", "dpc-chat");
  el.replaceChildren(h("section", { class: "dpc-card", "aria-label": t("Chat") }, top, log, bottom));
  log.onscroll = () => {
    atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
  };
  const forgetState = client.onState((_state, changed) => {
    if (changed.includes("link") && client.link === "live") load();
    if (client.link === "ended" && running) { // nothing more will come
      const messages = [...shown.values()].map(({ message }) => ({ ...message, streaming: false }));
      take({ count, running: false, messages });
    }
    if (changed.some((section) => section === "link" || section === "hosts" || section === "chosen")) draw();
  });
  const forgetChat = client.onChat((news) => news.chat === number && take(news));
  // What was built while it was not on the page has had no height to scroll.
  const resized = globalThis.ResizeObserver && new ResizeObserver(keepAtEnd);
  resized?.observe(log);
  draw();
  load();
  return () => {
    forgetState();
    forgetChat();
    resized?.disconnect();
  };

  async function load() {
    const whole = await calls.run("load", "chat_state", { chat: number });
    if (!whole?.messages) return;
    if (whole.count < count) return load(); // news has overtaken it
    take(whole);
  }

  /** All of the chat, or the one message that changed. */
  function take(news) {
    const before = JSON.stringify([running, chosen]);
    const missed = !news.messages && news.count > count + 1; // servers drop what comes too fast
    count = news.count;
    if (missed) load();
    running = news.running;
    if (news.chosen !== undefined) chosen = news.chosen;
    // The kernel has taken it; what Python asks after this chat's reader counts again.
    if (picked && picked.host === chosen?.id && picked.model === chosen.model) picked = null;
    if (news.messages) {
      const ids = new Set(news.messages.map(({ id }) => id));
      for (const [id, { element }] of [...shown]) {
        if (ids.has(id)) continue;
        element.remove();
        shown.delete(id);
      }
      news.messages.forEach(show);
    }
    if (news.message) show(news.message);
    if (news.messages || before !== JSON.stringify([running, chosen]) || shown.size === 1) draw();
    keepAtEnd();
  }

  function keepAtEnd() {
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  function draw() {
    log.setAttribute("aria-busy", running);
    update(top, [h("h3", { class: "dpc-head" }, t("Chat"), h("span", { class: "dpc-chat-tools" },
      hostSelect(),
      shown.size > 0 && button(t("Clear"), () => calls.run("clear", "chat_clear", { chat: number }),
        { key: "clear", busy: calls.busy("clear") })))]);
    const { host, model } = current();
    top.querySelector("select").value = valueOf(host, model); // options have come and gone
    update(bottom, [
      h("p", { key: "note", class: "dpc-chat-note", role: "status" },
        linkSentence(client, t) || (!shown.size && t("Nothing asked yet."))),
      ["load", "clear", "stop", "ask"].map((place) => h("div", { key: place }, failure(calls.error(place)))),
      composer(),
    ]);
  }

  // --- messages ----------------------------------------------------------------------------------------------------

  function show(message) {
    const had = shown.get(message.id);
    if (had && JSON.stringify(had.message) === JSON.stringify(message)) return;
    const { role, text, foot } = message;
    const props = { class: `dpc-chat-message dpc-chat-${role}`, "aria-label": speaker(role) };
    const element = had?.element ?? h("article", props);
    if (!had) log.append(element);
    shown.set(message.id, { message, element });
    update(element, role === "assistant" ? answer(message) : role === "error" ? [failure(text)] : [
      text, foot && h("div", { key: "foot", class: "dpc-chat-aside" }, foot)]);
    if (!message.streaming) element.querySelectorAll(".dpc-chat-html pre").forEach(addCopy);
  }

  function speaker(role) {
    return { user: t("You"), assistant: t("Answer"), error: t("Error") }[role];
  }

  function answer({ text, html, foot, streaming }) {
    const live = streaming ? " dpc-chat-streaming" : "";
    return [
      html === null
        ? h("div", { key: "text", class: `dpc-chat-text${live}` }, text)
        : h("div", { key: "html", class: `dpc-chat-html${live}`, html }),
      (foot || (text && !streaming)) && h("div", { key: "foot", class: "dpc-chat-foot" }, h("span", {}, foot),
        !streaming && text && copyButton(t("Copy the answer"), () => text)),
    ];
  }

  /** Beside the block, in a sibling of ours: what the kernel sanitized stays as it came. */
  function addCopy(block) {
    if (block.previousSibling?.className === "dpc-chat-code-tools") return;
    block.tabIndex = 0; // it scrolls, so the keyboard must get there
    block.before(h("div", { class: "dpc-chat-code-tools" },
      copyButton(t("Copy this code"), () => block.textContent)));
  }

  function copyButton(label, text) {
    const copy = async ({ currentTarget }) => {
      currentTarget.textContent = (await copyText(text())) ? t("Copied") : t("No clipboard");
      setTimeout(() => {
        currentTarget.textContent = t("Copy");
      }, 1_500);
    };
    return button(t("Copy"), copy, { key: "copy", class: "dpc-button dpc-chat-copy", "aria-label": label });
  }

  // --- whom to ask -------------------------------------------------------------------------------------------------

  /** Whom the next question goes to: `asked` as the kernel is told, the rest as it is shown. */
  function current() {
    const own = picked ?? (chosen && { host: chosen.id, model: chosen.model });
    const { host, model } = own ?? { host: client.state.chosen?.id ?? null, model: client.state.chosen?.model };
    const known = (client.state.hosts ?? []).find(({ id }) => id === host);
    return { asked: own ?? { host: null, model: null }, known, host, model: model ?? known?.models[0]?.model ?? null };
  }

  function hostSelect() {
    const { known, host, model } = current();
    const choices = (client.state.hosts ?? []).flatMap(choicesOf);
    const value = valueOf(host, model);
    // What is chosen may be gone since; it is still what would be asked.
    if (host && !choices.some((choice) => choice.value === value)) {
      choices.unshift({ value, text: line(known?.name ?? nameOf(host), model), disabled: false });
    }
    return [
      known && h("span", { key: "state", class: "dpc-chat-state" }, mark(known.state, hostState(known, t))),
      h("select", {
        key: "host", class: "dpc-input dpc-chat-host", "aria-label": t("Host and model"), disabled: !choices.length,
        onchange: (event) => {
          const [to, what] = JSON.parse(event.currentTarget.value);
          picked = { host: to, model: what };
          draw();
        },
      }, choices.map((choice) =>
        h("option", { key: choice.value, value: choice.value, disabled: choice.disabled }, choice.text))),
    ];
  }

  function choicesOf(host) {
    const away = host.state === "unreachable", names = [...new Set(host.models.map((each) => each.model))];
    if (away || !names.length) {
      return [{ value: valueOf(host.id, null), text: line(host.name, hostState(host, t)), disabled: away }];
    }
    return names.map((model) => ({ value: valueOf(host.id, model), text: line(host.name, model), disabled: false }));
  }

  function valueOf(host, model) {
    return JSON.stringify([host, model]);
  }

  function nameOf(host) {
    return [chosen, client.state.chosen].find((each) => each?.id === host)?.name ?? host;
  }

  // --- asking ------------------------------------------------------------------------------------------------------

  function composer() {
    const { known } = current();
    const busy = calls.busy("ask");
    return h("form", { key: "composer", class: "dpc-chat-composer", onsubmit: ask },
      h("textarea", {
        key: "prompt", class: "dpc-input dpc-chat-prompt", name: "prompt", rows: "1", "aria-label": t("Your question"),
        placeholder: known ? t("Ask %1…", known.name) : t("Ask…"), onkeydown: sendOnEnter,
      }),
      running
        // A second click of a double click on Ask is not meant for Stop.
        ? button(t("■ Stop"), ({ detail }) => detail < 2 && end(),
          { key: "stop", "aria-label": t("Stop"), busy: calls.busy("stop") })
        : button(t("Ask"), null, { key: "ask", type: "submit", busy }));
  }

  function end() {
    bottom.querySelector("textarea").focus(); // Stop goes away
    return calls.run("stop", "chat_stop", { chat: number });
  }

  function sendOnEnter(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.currentTarget.form.requestSubmit();
  }

  async function ask(event) {
    event.preventDefault();
    const field = event.currentTarget.elements.prompt, prompt = field.value;
    if (running || calls.busy("ask") || !prompt.trim()) return;
    const { host, model } = current().asked;
    field.value = "";
    field.focus();
    atEnd = true;
    const asked = await calls.run("ask", "chat_ask", { chat: number, prompt, host, model });
    if (asked === undefined) field.value ||= prompt; // it was not taken: nothing of it is lost
  }
}
