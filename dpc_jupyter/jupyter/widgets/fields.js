// Controls of a form.
import { h } from "./dom.js";

export function checkbox(label, checked, onchange) {
  const box = h("input", { type: "checkbox", checked, onchange });
  return h("label", { key: label, class: "dpc-fw-check" }, box, " ", label);
}

/**
 * A list as chips, with an input that adds one; `change` gets the new list and what was typed, and says whether it went
 * well.
 */
export function chipInput(props, t, { items, text, list, add, empty, change }) {
  const take = async (input) => {
    const typed = input.value.trim();
    if (!typed) return;
    input.value = "";
    if (!items.includes(typed) && !(await change([...items, typed], typed))) input.value ||= typed;
  };
  return h("span", { class: "dpc-chips" },
    items.map((item) => h("span", { key: item, class: "dpc-chip", title: item }, h("bdi", {}, text(item)),
      h("button", {
        type: "button", class: "dpc-fw-x", "aria-label": t("Take out %1", text(item)),
        onclick: () => change(items.filter((each) => each !== item)),
      }, "×"))),
    !items.length && h("span", { key: "none", class: "dpc-fact" }, empty),
    h("input", {
      ...props, key: "add", class: "dpc-input dpc-fw-add", list, placeholder: add, autocomplete: "off",
      onchange: (event) => take(event.currentTarget),
      // A choice from the list comes without the keys that typing has.
      oninput: (event) => event.inputType === "insertReplacementText" && take(event.currentTarget),
      onkeydown: (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault();
        take(event.currentTarget);
      },
    }));
}
