"""Every face without a mouse and without eyes: axe finds nothing serious in any theme, and keys are enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from running_host import RunningHost

from browser.conftest import Open
from browser.lab import NotebookPage
from browser.test_lab import LOAD, toolbar
from dpc_jupyter.home import Home

# Built with the extension: `make` has run npm.
AXE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
THEMES = ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast")
FACES = ("HostPicker", "NodePanel", "FirewallEditor", "Chat")
PARTS = (
    *(".dpc-lab-toolbar", ".dpc-lab-sidebar", ".dpc-lab-status"),
    *(f".jp-OutputArea .dpc-{view}" for view in ("host-picker", "node-panel", "firewall-editor", "chat")),
)
_AXE = """async (selector) => {
  const { violations } = await axe.run(selector, { resultTypes: ["violations"] });
  return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, impact, nodes }) => nodes.map((node) => `${impact} ${id}: ${node.html}\\n${node.failureSummary}`));
}"""


def findings(page: Page, selector: str) -> list[str]:
    """What axe-core calls serious or critical below a selector."""
    expect(page.locator(selector).first).to_be_visible()
    found: list[str] = page.evaluate(_AXE, selector)
    return found


def cells(anna: RunningHost) -> list[str]:
    return [
        f"{LOAD}\nimport dpc_jupyter",
        f"%dpc_connect {anna.uri} --name anna",
        *(f"face = dpc_jupyter.{face}()\nface" for face in FACES),
        'face.ask("Say `code` twice.", options={"max_tokens": 12}).finish_reason',
    ]


def open_all(open_notebook: Open, page: Page, anna: RunningHost, home: Path) -> NotebookPage:
    first, *rest = cells(anna)
    notebook = open_notebook(f"%env DPC_HOME={home}\n{first}\n%dpc_start --listen 127.0.0.1 --port 0", *rest)
    for index in range(2 + len(FACES)):
        notebook.run(index)
    return notebook


@pytest.fixture
def home(tmp_path: Path, anna: RunningHost, asker: Home) -> Path:
    """Whom anna has let in, with an access file of its own to edit."""
    home = Home(tmp_path / "keyboard")
    home.path.mkdir(0o700)
    for file in asker.path.iterdir():
        if file.is_file():
            (home.path / file.name).write_bytes(file.read_bytes())
            (home.path / file.name).chmod(0o600)
    home.edit_access(lambda document: {**document, "compute": {"enabled": False, "allow_nodes": [anna.node_id]}})
    return home.path


def test_axe_finds_nothing_serious_in_any_theme(open_notebook: Open, page: Page, anna: RunningHost, home: Path) -> None:
    assert AXE.exists(), f"{AXE} is missing: run npm ci in labextension/ (make does)."
    notebook = open_all(open_notebook, page, anna, home)
    page.evaluate("jupyterapp.commands.execute('dpc:open-panel')")
    # With everything unfolded that can be.
    notebook.output(2).get_by_role("button", name="Connect to a host").click()
    editor = notebook.output(4).locator(".dpc-firewall-editor")
    editor.get_by_role("button", name="Edit ", exact=False).last.click()
    editor.get_by_role("button", name="Add a person").click()
    notebook.run(6)
    expect(notebook.output(5).locator(".dpc-chat-foot")).to_contain_text("tokens")
    expect(notebook.output(5).get_by_role("button", name="Ask", exact=True)).to_be_visible()
    page.add_script_tag(path=AXE)
    found: dict[tuple[str, str], list[str]] = {}
    for theme in THEMES:
        page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        for part in PARTS:
            found[theme, part] = findings(page, part)
        toolbar(page).click()
        found[theme, "popup"] = findings(page, ".dpc-lab-popup")
        page.keyboard.press("Escape")
    assert (bad := {where: each for where, each in found.items() if each}) == {}, "\n".join(map(str, bad.items()))


# The text that a lexer has each kind of colour for.
CODE = """```python
import numpy as np  # a comment
@property
def f(x: float, y=0x1F) -> str:
    '''A text.'''
    return f"{x!r}\\n" if x >= 1.5 and not None else $
```"""
SHOW = f"""from IPython.display import HTML
from dpc_jupyter.jupyter.drawing.rich_text import to_html
HTML(to_html({CODE!r}))"""


# WCAG 2.2, "contrast ratio", of each of Pygments' spans; axe looks at none of them. A canvas knows every colour's RGB.
_CONTRASTS = """(block) => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const under = getComputedStyle(block).backgroundColor;
  const luminance = (colour) => {
    for (pen.fillStyle of [under, colour]) pen.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = luminance(under);
  return Object.fromEntries([block, ...block.querySelectorAll("span")].map((each) => {
    const text = luminance(getComputedStyle(each).color);
    return [each.className, (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05)];
  }));
}"""


def test_code_in_an_answer_can_be_read_in_any_theme(open_notebook: Open, page: Page) -> None:
    notebook = open_notebook(SHOW)
    notebook.run(0)
    found = {}
    for theme in THEMES:
        page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)  # or Lab removes it twice at the next change
        found[theme] = notebook.output(0).locator("pre.highlight").evaluate(_CONTRASTS)
        assert {"highlight", "c1", "k", "n", "o", "p", "mf", "s2"} <= found[theme].keys()
    dim = {(theme, kind): each for theme, kinds in found.items() for kind, each in kinds.items() if each < 4.5}
    assert dim == {}


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, target: Locator, key: str = "Tab", limit: int = 60) -> None:
    """Press Tab until it is there, as somebody without a mouse does."""
    for _ in range(limit):
        if target.evaluate("e => e === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{target} is not reached by {limit} times {key}")


def test_a_host_is_chosen_connected_to_shared_with_and_an_edit_saved_by_keys_alone(
    open_notebook: Open, page: Page, anna: RunningHost, carol: RunningHost, home: Path
) -> None:
    notebook = open_all(open_notebook, page, anna, home)
    # Choose a host, and connect to another, in the toolbar's popup.
    page.locator(".jp-NotebookPanel-toolbar [data-command]").first.focus()
    tab_to(page, toolbar(page), "ArrowRight")  # Lab's toolbar is one stop of Tab
    press(page, "Enter")
    popup = page.get_by_role("dialog", name="Pick a compute host")
    expect(popup.get_by_role("searchbox")).to_be_focused()
    press(page, "ArrowDown", "ArrowDown", "Enter")
    expect(toolbar(page)).to_contain_text("anna")
    expect(toolbar(page)).to_be_focused()
    press(page, "Enter")
    tab_to(page, popup.get_by_role("button", name="Connect to a host"), "Shift+Tab")
    press(page, "Enter")
    page.keyboard.insert_text(carol.uri)
    press(page, "Tab")
    page.keyboard.insert_text("carol")
    press(page, "Enter")
    expect(popup.get_by_role("radio", name="carol", exact=True)).to_be_visible()
    press(page, "Escape")
    expect(toolbar(page)).to_be_focused()
    # Share, in the node panel.
    panel = notebook.output(3).locator(".dpc-node-panel")
    share = panel.get_by_role("switch", name="Share my models")
    panel.get_by_role("button").first.focus()
    tab_to(page, share)
    press(page, "Space")
    expect(share).to_be_checked()
    expect(panel.locator("[aria-busy]")).to_have_count(0)
    press(page, "Space")
    expect(share).not_to_be_checked()
    # Review and save an edit, in the firewall editor.
    editor = notebook.output(4).locator(".dpc-firewall-editor")
    editor.get_by_role("switch").focus()
    tab_to(page, editor.get_by_role("button", name="Edit Everyone"))
    press(page, "Enter")
    tab_to(page, editor.get_by_label("Requests a minute"))
    page.keyboard.insert_text("7")
    press(page, "Enter")
    tab_to(page, editor.get_by_role("button", name="Review"))
    press(page, "Enter")
    expect(editor.locator(".dpc-fw-lines")).to_be_focused()
    expect(editor.locator(".dpc-fw-plus")).to_contain_text(['"requests_per_minute": 7'])
    tab_to(page, editor.get_by_role("button", name="Save"))
    press(page, "Enter")
    expect(editor.locator(".dpc-fw-said")).to_have_text("Saved.")
    assert Home(home).access_document()["compute"]["limits"]["requests_per_minute"] == 7
