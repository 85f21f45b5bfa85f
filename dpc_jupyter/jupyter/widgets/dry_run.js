// "May dave use llama3-70b now?", answered by the rules in force.
import { h } from "./dom.js";

/** `lists` are the ids of the page's lists of known people and models; `redraw` shows an answer that has come. */
export class DryRun {
  #client;
  #t;
  #lists;
  #redraw;
  #who = "";
  #model = "";
  #answer = null;
  #turn = 0;
  #timer = 0;

  constructor(client, t, lists, redraw) {
    [this.#client, this.#t, this.#lists, this.#redraw] = [client, t, lists, redraw];
  }

  /** The question and its answer; `drafting` says that there are changes which it does not know of. */
  render(drafting) {
    const t = this.#t, answer = this.#answer;
    return h("div", { key: "dry", class: "dpc-fw-dry" },
      h("span", { class: "dpc-fw-question" },
        t("May"), " ",
        this.#input("people", t("Who"), t("name or node id"), this.#who, (typed) => { this.#who = typed; }),
        " ", t("use"), " ",
        this.#input("models", t("Model"), t("any model"), this.#model, (typed) => { this.#model = typed; }),
        " ", t("now?")),
      h("span", { class: "dpc-fw-answer", "aria-live": "polite" },
        answer?.error && h("span", { key: "error", class: "dpc-error" }, answer.error),
        answer?.sentence && [
          h("b", { key: "word", class: answer.allowed ? "dpc-fw-yes" : "dpc-fw-no" },
            answer.allowed ? t("Yes") : t("No")),
          // The kernel's sentence starts with the same word.
          `: ${answer.sentence.replace(/^(yes|no): /, "")}`,
          drafting && h("span", { key: "draft", class: "dpc-fact" }, " ", t("(without your unsaved changes)")),
        ]));
  }

  /** Ask again: the file has changed. */
  async explain() {
    const turn = ++this.#turn;
    let answer = null;
    if (this.#who) {
      const asked = this.#client.call("explain", { who: this.#who, model: this.#model || null });
      answer = await asked.catch((error) => ({ error: error.message }));
    }
    if (turn !== this.#turn) return; // typed on meanwhile
    this.#answer = answer;
    this.#redraw();
  }

  dispose() {
    clearTimeout(this.#timer);
  }

  #input(list, label, placeholder, value, take) {
    return h("input", {
      key: list, class: "dpc-input dpc-fw-ask", list: this.#lists[list], "aria-label": label, placeholder,
      autocomplete: "off", value,
      oninput: (event) => {
        take(event.currentTarget.value.trim());
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.explain(), 150);
      },
    });
  }
}
