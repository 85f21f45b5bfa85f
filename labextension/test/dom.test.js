// @vitest-environment jsdom
import { beforeEach, describe, expect, test, vi } from "vitest";
import { arrowKeys, button, connectForm, copyText, h, toggle, update } from "../../dpc_jupyter/jupyter/widgets/dom.js";
import { untranslated as t } from "../../dpc_jupyter/jupyter/widgets/format.js";

let box;
beforeEach(() => {
  box = document.createElement("div");
  document.body.replaceChildren(box);
});

describe("h", () => {
  test("children may be nested, and what says nothing is left out", () => {
    const node = h("p", {}, "a", [1, [null, false, ""], h("b", null, "c")], undefined, 0);
    expect(node.innerHTML).toBe("a1<b>c</b>0");
  });

  test("flags are there or not, aria states are words", () => {
    const node = h("input", { required: true, disabled: false, title: null, "aria-checked": false, "aria-busy": true, tabindex: 0 });
    expect(node.outerHTML).toBe('<input required="" aria-checked="false" aria-busy="true" tabindex="0">');
  });

  test("text is never markup", () => {
    const evil = "<img src=x onerror=alert(1)>";
    const node = h("p", { title: evil }, evil);
    expect(node.textContent).toBe(evil);
    expect(node.children).toHaveLength(0);
  });

  test("a drawing is of its own namespace", () => {
    expect(h("svg", {}, h("polyline", { points: "0,0" })).firstChild.namespaceURI).toBe("http://www.w3.org/2000/svg");
  });

  test("a select takes its value", () => {
    expect(h("select", { value: "b" }, h("option", { value: "a" }), h("option", { value: "b" })).value).toBe("b");
  });
});

describe("update", () => {
  const keys = (...names) => names.map((name) => h("input", { key: name, id: name }));
  const ids = () => [...box.children].map((each) => each.id).join("");

  test("what is there stays the same element", () => {
    update(box, [h("p", { class: "a" }, "one"), "text"]);
    const [p, text] = box.childNodes;
    update(box, [h("p", { class: "b", title: "x" }, "two"), "more"]);
    expect([...box.childNodes]).toEqual([p, text]);
    expect(box.innerHTML).toBe('<p class="b" title="x">two</p>more');
  });

  test("a prop that is no longer given goes", () => {
    update(box, [h("p", { class: "a", onclick: () => {} })]);
    update(box, [h("p", {})]);
    expect(box.innerHTML).toBe("<p></p>");
    expect(box.firstChild.onclick).toBeNull();
  });

  test("keyed elements go where they should, whatever the order was", () => {
    const orders = ["abcd", "dcba", "bd", "abcd", "xbydz", "", "cab"];
    update(box, keys(..."abcd"));
    const a = box.firstChild;
    update(box, keys(..."dcba"));
    expect(box.lastChild).toBe(a);
    for (const order of orders) {
      update(box, keys(...order));
      expect(ids()).toBe(order);
    }
  });

  test("the focused element keeps focus and caret wherever it goes", () => {
    const blur = vi.fn();
    for (const order of ["cba", "bca", "xbya", "b", "zyxb"]) {
      update(box, keys(..."abc"));
      const b = box.children[1];
      b.onblur = blur;
      b.value = "half-typed";
      b.focus();
      b.setSelectionRange(2, 4);
      update(box, keys(...order));
      expect(ids()).toBe(order);
      expect(document.activeElement).toBe(b);
      expect([b.value, b.selectionStart, b.selectionEnd]).toEqual(["half-typed", 2, 4]);
    }
    expect(blur).not.toHaveBeenCalled();
  });

  test("a value is set when another one is given, and not while somebody types", () => {
    const draw = (value) => update(box, [h("input", { value })]);
    draw("1");
    const input = box.firstChild;
    draw("2");
    expect(input.value).toBe("2");
    input.value = "25";
    draw("2");
    expect(input.value).toBe("25");
    input.focus();
    draw("3");
    expect(input.value).toBe("25");
    input.blur();
    draw("4");
    expect(input.value).toBe("4");
  });

  test("a checkbox follows what is given", () => {
    const draw = (checked) => update(box, [h("input", { type: "checkbox", checked })]);
    draw(true);
    box.firstChild.checked = false;
    draw(false);
    draw(true);
    expect(box.firstChild.checked).toBe(true);
  });

  test("handlers are those of the last render", () => {
    const seen = [];
    for (const number of [1, 2]) update(box, [button("go", () => seen.push(number))]);
    box.firstChild.click();
    expect(seen).toEqual([2]);
  });

  test("what others did to an element is left alone: open details, classes, scroll", () => {
    const draw = (text) => update(box, [h("details", {}, h("summary", {}, text)), h("p", { class: "own" }, text)]);
    draw("a");
    box.firstChild.open = true;
    box.lastChild.classList.add("theirs");
    draw("b");
    expect(box.firstChild.open).toBe(true);
    expect(box.lastChild.className).toBe("own theirs");
  });

  test("sanitized html is set once for the same text", () => {
    update(box, [h("div", { html: "<b>x</b>" })]);
    const b = box.querySelector("b");
    update(box, [h("div", { html: "<b>x</b>" })]);
    expect(box.querySelector("b")).toBe(b);
    update(box, [h("div", { html: "<i>y</i>" })]);
    expect(box.innerHTML).toBe("<div><i>y</i></div>");
  });

  test("an element of the view's own stays itself among others", () => {
    const own = h("div", {}, "mine");
    update(box, [h("div", {}, "a"), own]);
    update(box, [own, h("div", {}, "b"), h("div", {}, "c")]);
    expect(box.firstChild).toBe(own);
    expect(own.textContent).toBe("mine");
    expect(box.textContent).toBe("minebc");
  });
});

describe("arrowKeys", () => {
  const row = (...names) => h("div", { class: "dpc-row" }, names.map((name) => h("button", { class: "dpc-item", tabindex: -1, id: name })));
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));

  test("go through rows and along them, with one tab stop", () => {
    const settle = arrowKeys(box);
    update(box, [row("a1", "a2"), h("div", { class: "dpc-row" }), row("b1", "b2", "b3")]);
    settle();
    const stops = () => [...box.querySelectorAll('[tabindex="0"]')].map((each) => each.id);
    expect(stops()).toEqual(["a1"]);
    box.querySelector("#a1").focus();
    const path = ["ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowUp", "End", "Home", "ArrowLeft"].map((key) => {
      press(key);
      return document.activeElement.id;
    });
    expect(path).toEqual(["b1", "b2", "b3", "b3", "a1", "b1", "a1", "a1"]);
    press("ArrowDown");
    update(box, [row("a1", "a2"), h("div", { class: "dpc-row" }), row("b1")]);
    settle();
    expect(stops()).toEqual(["b1"]);
  });
});

test("a switch says whether it is on", () => {
  const node = toggle("Share", false, () => {});
  expect([node.getAttribute("role"), node.getAttribute("aria-checked")]).toEqual(["switch", "false"]);
});

describe("copyText", () => {
  test("says whether it could, by any way there is", async () => {
    document.execCommand = vi.fn(() => true);
    expect(await copyText("x")).toBe(true);
    document.execCommand = undefined;
    expect(await copyText("x")).toBe(false);
    const writeText = vi.fn();
    Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
    expect(await copyText("x")).toBe(true);
    expect(writeText).toHaveBeenCalledWith("x");
    expect(document.querySelector("textarea")).toBeNull();
    delete navigator.clipboard;
  });
});

test("the connect form gives what was typed, and the peer to whom it may concern", async () => {
  const run = vi.fn(async () => ({ id: "a", name: "anna" }));
  const done = vi.fn();
  update(box, [connectForm({ busy: () => false, error: () => "no path", run }, t, done)]);
  const { address } = box.querySelector("form").elements;
  address.value = " dpc://x ";
  box.querySelector("form").requestSubmit();
  await Promise.resolve();
  expect(run).toHaveBeenCalledWith("connect", "connect", { address: "dpc://x", name: null });
  await vi.waitFor(() => expect(done).toHaveBeenCalledWith({ id: "a", name: "anna" }));
  expect(box.querySelector("[role=alert]").textContent).toBe("no path");
});
