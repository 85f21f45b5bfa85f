// @vitest-environment jsdom
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Client } from "../../dpc_jupyter/jupyter/widgets/client.js";
import { firewallEditor } from "../../dpc_jupyter/jupyter/widgets/firewall_editor.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";

const EVIL = '<img src=x onerror="globalThis.pwned=1">';
const LINE = "dpc-invite:Abu7u7u7u7";
const NO_LIMITS = { requests_per_minute: null, tokens_per_day: null, running: null, queued: null };
const STATE = {
  hosts: [], pending: [],
  access: { path: "", error: null, sharing: true, everyone: { models: [], limits: NO_LIMITS }, people: [],
    groups: [{ name: "lab", allowed: true, members: [], models: [], limits: NO_LIMITS }] },
  invitations: [{ id: "00ff", name: "bob", models: [], group: "lab", permission: "for 7d from joining", until: "2099-01-31 18:00 UTC" }],
};

let el, client, asked, kernel, stop;

beforeEach(() => {
  asked = [];
  kernel = { invite: () => ({ id: "11ee", line: LINE, sentences: ["Send this line to anna."] }),
    revoke_invitation: () => ({ sentence: "The invitation for bob is taken back." }) };
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
  client.receive({ state: structuredClone(STATE) });
});
afterEach(() => stop());

const settle = () => new Promise((done) => setTimeout(done));
const control = (label) => [...el.querySelectorAll("button, input, select")].find(
  (each) => [each.textContent, each.getAttribute("aria-label"), each.labels?.[0]?.firstChild.textContent].includes(label));
const push = (label) => {
  control(label).click();
  return settle();
};
const fill = (label, value) => { control(label).value = value; };
const submit = () => {
  el.querySelector(".dpc-fw-invite").dispatchEvent(new Event("submit", { cancelable: true, bubbles: true }));
  return settle();
};

describe("an invitation", () => {
  test("is asked for with what was typed, and its line can be copied until it is put away", async () => {
    const writeText = vi.fn(async () => {});
    Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
    await push("Invite somebody");
    expect(document.activeElement.name).toBe("name");
    fill("Your name for who joins", " anna ");
    fill("Models, commas between", "llama3*, qwen3:8b");
    fill("Group", "lab");
    await submit();
    expect(asked).toEqual([["invite", { name: "anna", models: ["llama3*, qwen3:8b"], group: "lab", expires: "7d" }]]);
    expect(el.textContent).toContain("Send this line to anna.");
    expect(control("The line to send").value).toBe(LINE);
    expect(el.querySelector(".dpc-fw-invite")).toBe(null);
    await push("Copy");
    expect(writeText).toHaveBeenCalledWith(LINE);
    expect(control("Copied")).toBeTruthy();
    await push("Put away");
    expect(control("The line to send")).toBe(undefined);
  });

  test("that cannot be made says why in place, and what was typed stays", async () => {
    kernel.invite = () => { throw Error("No node of this home listens."); };
    await push("Invite somebody");
    fill("Your name for who joins", "anna");
    await submit();
    expect(el.querySelector(".dpc-fw-invitations [role=alert]").textContent).toBe("No node of this home listens.");
    expect(control("Your name for who joins").value).toBe("anna");
    await push("Invite somebody");
    expect(el.querySelector(".dpc-fw-invitations [role=alert]")).toBe(null);
  });

  test("that is open is shown with its terms and taken back with one click", async () => {
    const row = el.querySelector(".dpc-fw-invitations .dpc-row");
    expect(row.textContent).toContain("Invited: bob what its group may · in lab · for 7d from joining · the line works until 2099-01-31 18:00 UTC");
    await push("Revoke the invitation for bob");
    expect(asked).toEqual([["revoke_invitation", { invite_id: "00ff" }]]);
    expect(el.textContent).toContain("The invitation for bob is taken back.");
  });

  test("shows hostile text as text", async () => {
    client.receive({ state: { invitations: [{ ...STATE.invitations[0], name: EVIL, models: [EVIL], group: EVIL, permission: EVIL }] } });
    expect(el.textContent).toContain(EVIL);
    expect(el.querySelector("img")).toBe(null);
    expect(globalThis.pwned).toBe(undefined);
  });

  test("is no matter while the access file is broken", () => {
    client.receive({ state: { access: { ...STATE.access, error: "line 3" } } });
    expect(el.querySelector(".dpc-fw-invitations")).toBe(null);
  });
});
