"""What a user of JupyterLab waits for: text on the screen, a choice in the toolbar, a long list of hosts."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import percentile
from benchmarks.rows import Row, row
from benchmarks.setting import Setting
from benchmarks.stub import MODEL
from dpc_jupyter.home import Home

if TYPE_CHECKING:
    from browser.lab import NotebookPage

ROOT = Path(__file__).parent.parent
TOKENS_PER_S = 50
HOSTS = 200
LONG_CHARS = 60_000

# The stub's tokens are the moments at which they were made: the page notes when it first shows each.
_WATCH = """(selector) => {
  window.shown = [];
  let seen = 0;
  new MutationObserver(() => {
    const words = (document.querySelector(selector)?.textContent ?? '').match(/\\b[0-9a-f]{15} /g) ?? [];
    for (; seen < words.length; seen++) shown.push([words[seen].trim(), performance.timeOrigin + performance.now()]);
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
# Code and formulas, as fast as a fast model writes them, through the very class that draws a cell's answer.
_LONG = f"""
import time
from dpc_jupyter.jupyter.drawing.display import CellAnswer
from dpc_jupyter.node.asking import Answer
paragraph = "Let $x_i = \\\\sum_j w_{{ij}} a_j$ be.\\n\\n```python\\nfor i in range(10):\\n    print(i)\\n```\\n\\n"
text = (paragraph * {LONG_CHARS})[:{LONG_CHARS}]
pieces = [text[at:at + 8] for at in range(0, len(text), 8)]
face, began = CellAnswer(), time.monotonic()
for number, piece in enumerate(pieces):
    face.add(piece)
    time.sleep(max(0, began + number / 1000 - time.monotonic()))
last = time.time()
face.end(Answer(text + "\\n\\nthe-end", "local", "stub", "1"))
print("last", last)
"""


async def face(setting: Setting) -> list[Row]:
    """JupyterLab in Chromium; skipped where there is none."""
    sys.path.append(str(ROOT / "tests"))  # the harness of the browser tests
    from browser.lab import browser_path

    if (path := browser_path()) is None:
        setting.skipped["JupyterLab"] = "no Chromium and no Chrome is installed"
        return []
    return await asyncio.to_thread(_face, setting, path)


def _face(setting: Setting, path: str) -> list[Row]:
    from browser.lab import NotebookPage, running_lab
    from playwright.sync_api import sync_playwright

    home = Home(setting.folder("asker7"))
    home.edit_peers(lambda _: {f"dpc-node-{n:032x}": _known(n) for n in range(HOSTS)})
    folder = setting.folder("lab")
    folder.mkdir()
    seconds = 3 if setting.quick else 20
    ask = f"%dpc_ask -H host -m {MODEL} --seed {TOKENS_PER_S} --max-tokens {seconds * TOKENS_PER_S} hello"
    cells = ("%load_ext dpc_jupyter", f"%dpc_connect {setting.ours.uri} --name host", ask, _LONG)
    with running_lab(folder, {"DPC_HOME": str(home.path)}) as lab, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        lab.write("bench.ipynb", *cells)
        notebook = NotebookPage(browser.new_page(), lab, "bench.ipynb")
        notebook.run(0)
        notebook.run(1)
        rows = [
            _tokens(notebook),
            _lag(notebook),
            _choice(notebook, 5 if setting.quick else 30),
            _picker(notebook, 3 if setting.quick else 10),
            row("extension assets", "kB", _assets_bytes() / 1000, "<= 150"),
        ]
        browser.close()
    return rows


def _known(number: int) -> dict[str, Any]:
    uri = f"dpc://127.0.0.1:9?node_id=dpc-node-{number:032x}"
    return {"name": f"host {number}", "uri": uri, "last_seen": int(time.time())}


def _tokens(notebook: NotebookPage) -> Row:
    notebook.page.evaluate(_WATCH, '.jp-Cell[data-windowed-list-index="2"] .jp-OutputArea')
    notebook.run(2)
    offset_ms = (time.time_ns() - time.monotonic_ns()) / 1e6
    shown = notebook.page.evaluate("shown")
    waits = [at - (int(word, 16) / 1e6 + offset_ms) for word, at in shown]
    if len(waits) < TOKENS_PER_S:
        raise RuntimeError(f"only {len(waits)} tokens came to the screen")
    return row(f"token made to text on screen, {TOKENS_PER_S}/s, p50", "ms", percentile(waits, 50), "<= 100")


def _lag(notebook: NotebookPage) -> Row:
    notebook.page.evaluate(
        """() => { window.ended = new Promise(done => new MutationObserver((_, observer) => {
          const output = document.querySelector('.jp-Cell[data-windowed-list-index="3"] .jp-OutputArea');
          if (output?.textContent.includes('the-end')) {
            observer.disconnect();
            done(performance.timeOrigin + performance.now());
          }
        }).observe(document.body, { subtree: true, childList: true, characterData: true })); }"""
    )
    said = notebook.run(3)
    last_s = float(said.rpartition("last")[2])
    return row("screen behind the last token, 60 kB", "s", notebook.page.evaluate("ended") / 1000 - last_s, "<= 0.35")


def _choice(notebook: NotebookPage, rounds: int) -> Row:
    """From a click on a host to its name in the toolbar."""
    took = []
    for name in ["host", "Local"] * rounds:
        took.append(
            notebook.page.evaluate(
                """async (name) => {
                  const button = document.querySelector('.dpc-lab-host');
                  button.click();
                  const item = await until(() => [...document.querySelectorAll('.dpc-lab-popup .dpc-name')]
                    .find(each => each.textContent === name));
                  const began = performance.now();
                  item.click();
                  await until(() => button.isConnected && button.textContent.includes(name));
                  return performance.now() - began;
                  async function until(look) {
                    for (;;) {
                      const found = look();
                      if (found) return found;
                      await new Promise(requestAnimationFrame);
                    }
                  }
                }""",
                name,
            )
        )
        notebook.page.wait_for_selector(".dpc-lab-popup", state="detached")
    return row("toolbar choice, click to name, p50", "ms", percentile(took, 50), "<= 100")


def _picker(notebook: NotebookPage, rounds: int) -> Row:
    took = []
    for _ in range(rounds):
        took.append(
            notebook.page.evaluate(
                """async (hosts) => {
                  const began = performance.now();
                  document.querySelector('.dpc-lab-host').click();
                  for (;;) {
                    await new Promise(requestAnimationFrame);
                    if (document.querySelectorAll('.dpc-lab-popup .dpc-row').length >= hosts) break;
                  }
                  await new Promise(requestAnimationFrame);
                  return performance.now() - began;
                }""",
                HOSTS,
            )
        )
        notebook.page.keyboard.press("Escape")
        notebook.page.wait_for_selector(".dpc-lab-popup", state="detached")
    return row(f"host picker with {HOSTS} hosts, click to painted, p50", "ms", percentile(took, 50), "<= 300")


def _assets_bytes() -> int:
    static = ROOT / "dpc_jupyter" / "labextension" / "static"
    files = [file for file in static.iterdir() if file.suffix == ".js"]
    if not files:
        raise RuntimeError("the extension is not built: make .venv/.base")
    return sum(file.stat().st_size for file in files)
