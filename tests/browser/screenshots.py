"""Pictures of every view in light and dark, of this build: ``make screenshots`` writes them into docs/images.

Nothing in them is drawn by hand: real JupyterLab, real hosts, the embedded model.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright
from running_host import COMMAND, RunningHost, let_in, serving, write_providers

from browser.company import company
from browser.lab import Lab, NotebookPage, browser_path, running_lab
from dpc_jupyter import firewall
from dpc_jupyter.home import Home
from dpc_jupyter.node.thread import BackgroundNode

FOLDER = Path(__file__).parents[2]
IMAGES = FOLDER / "docs" / "images"
WIDTH, HEIGHT = 1200, 760
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
MODEL = "smollm2:135m"
DAVE, ERIN, FRANK, GWEN = (f"dpc-node-{digits * 8}" for digits in ("9c11", "51d3", "77aa", "b40e"))
LONG = "Tell me a very long story of a fox and a hen."
ASK = f"%%dpc_ask -t 0 --max-tokens 1500\n{LONG}"
SETUP = """%load_ext dpc_jupyter
import dpc_jupyter
%dpc_start --share --listen 127.0.0.1 --name bob-laptop
%dpc_connect {anna} --name anna
%dpc_host anna"""


@dataclass
class Studio:
    """A page, and where its pictures go."""

    page: Page
    lab: Lab
    theme: str = "light"

    def set_theme(self, theme: str) -> None:
        """Change JupyterLab's theme, and remember it for the files' names."""
        self.theme = theme
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", THEMES[theme])
        flag = "true" if theme == "light" else "false"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{flag}"]', state="attached")
        self.page.wait_for_timeout(400)

    def shoot(self, name: str, what: Locator | None = None, clip: dict[str, float] | None = None) -> None:
        """Take a picture of a place, or of all, and keep it small."""
        if what is not None:
            what.scroll_into_view_if_needed()
        self.page.mouse.move(0, HEIGHT - 1)
        self.page.wait_for_timeout(150)
        data = self.page.screenshot(clip=clip) if what is None else what.screenshot()  # type: ignore[arg-type]
        path = IMAGES / f"{name}-{self.theme}.png"
        # Few colours cover most of a page; those few that are rare, such as a dot's, must not be lost with them.
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        print(f"{path.relative_to(FOLDER)}  {picture.width} x {picture.height}  {path.stat().st_size // 1000} kB")

    def each_theme(self) -> Iterator[str]:
        """Light, then dark, then light again."""
        for theme in THEMES:
            self.set_theme(theme)
            yield theme
        self.set_theme("light")


def miss_carol(page: Page) -> None:
    """Try to reach her, so that the views know why it is in vain."""
    page.evaluate(
        """async () => {
          const { kernel } = jupyterapp.shell.currentWidget.context.sessionContext.session;
          await kernel.requestExecute({ code: '%dpc_connect carol', silent: true }).done;
        }"""
    )


def owner(home: Home) -> None:
    """An access file with people, a group and limits, and somebody who was refused."""
    home.load_identity()
    write_providers(home)
    edits = [
        {"kind": "everyone", "limits": {"requests_per_minute": 60}},
        {"kind": "group", "name": "lab", "allowed": True, "members": {"add": [ERIN, FRANK]}},
        {"kind": "group", "name": "lab", "limits": {"running": 2, "tokens_per_day": 200_000}},
        {"kind": "person", "node_id": DAVE, "name": "dave", "listed": True, "models": [MODEL], "expires": "2027-01-31"},
        {"kind": "person", "node_id": DAVE, "limits": {"running": 1, "tokens_per_day": 50_000}},
        {"kind": "person", "node_id": ERIN, "name": "erin"},
        {"kind": "person", "node_id": FRANK, "name": "frank"},
    ]
    home.edit_access(lambda document: firewall.revise(document, firewall.read_edits(edits)))
    home.note_all_pending({GWEN: ("gwen-laptop", MODEL, time.time() - 180)})


@contextmanager
def host(home: Home, name: str, asker: Home) -> Iterator[RunningHost]:
    """A host that lets the asker in."""
    write_providers(home)
    let_in(home, asker.load_identity().node_id, "bob")
    with serving(home, "--name", name) as running:
        yield running


@contextmanager
def studio(folder: Path) -> Iterator[tuple[Studio, RunningHost]]:
    """Anna's host, JupyterLab, and a browser before it; carol's host was met once, and is gone."""
    asker = Home(folder / "bob")
    owner(asker)
    with ExitStack() as stack:
        anna, carol = (stack.enter_context(host(Home(folder / name), name, asker)) for name in ("anna", "carol"))
        node = BackgroundNode(asker)
        node.start()
        node.run(node.service.connect(carol.uri, name="carol"))
        node.stop()
        carol.process.terminate()
        lab = stack.enter_context(running_lab(folder, {"DPC_HOME": str(asker.path), "DPC_DEMO_HOST": anna.uri}))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=browser_path(), args=["--no-sandbox"]
        )
        stack.callback(browser.close)
        page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
        yield Studio(page, lab), anna


def other_people(anna: RunningHost, folder: Path) -> list[subprocess.Popen[bytes]]:
    """Two strangers to bob who keep anna's two slots busy: bob has to wait in line."""
    busy = []
    for name in ("heidi", "ivan"):
        home = Home(folder / name)
        let_in(anna.home, home.load_identity().node_id, name)
        words = ["ask", "--host", anna.uri, "-m", MODEL, "--max-tokens", "4000", "-t", "0", LONG]
        environment = {**os.environ, "DPC_HOME": str(home.path)}
        quiet = subprocess.DEVNULL
        busy.append(subprocess.Popen([*COMMAND, *words], env=environment, stdout=quiet, stderr=quiet))
    return busy


def lab_views(studio: Studio, anna: RunningHost, folder: Path) -> None:
    """The toolbar's popup, the sidebar, the status bar, and a cell while it waits and while it is answered."""
    studio.lab.write("story.ipynb", SETUP.format(anna=anna.uri), ASK)
    notebook = NotebookPage(studio.page, studio.lab, "story.ipynb")
    page = studio.page
    notebook.run(0)
    miss_carol(page)
    page.evaluate("jupyterapp.shell.collapseLeft()")
    toolbar = page.locator(".dpc-lab-host")
    for _ in studio.each_theme():
        toolbar.click()
        expect(page.get_by_role("dialog")).to_contain_text("Retry")
        studio.shoot("toolbar")
        page.keyboard.press("Escape")
    page.evaluate("jupyterapp.commands.execute('dpc:open-panel')")
    for theme in THEMES:
        studio.set_theme(theme)
        notebook.start(1)
        expect(notebook.output(1)).to_contain_text("tokens/s")
        expect(page.locator(".dpc-lab-sidebar .dpc-plot")).to_be_visible()
        page.wait_for_timeout(5000)
        studio.shoot("sidebar")
        studio.shoot("answering", notebook.cell(1))
        studio.shoot("status-bar", clip={"x": 0, "y": HEIGHT - 25, "width": 700, "height": 25})
        notebook.interrupt()
        expect(notebook.output(1)).to_contain_text("Stopped")
    busy = other_people(anna, folder)
    page.wait_for_timeout(4000)
    for theme in THEMES:
        studio.set_theme(theme)
        notebook.start(1)
        expect(notebook.output(1)).to_contain_text("in line at anna")
        page.wait_for_timeout(2500)
        studio.shoot("waiting", notebook.cell(1))
        notebook.interrupt()
        expect(notebook.output(1)).to_contain_text("Stopped")
    for process in busy:
        process.terminate()
        process.wait()
    studio.set_theme("light")


def widgets(studio: Studio, anna: RunningHost) -> None:
    """Each widget in a notebook."""
    cells = [f"dpc_jupyter.{name}()" for name in ("HostPicker", "FirewallEditor", "NodePanel", "Chat")]
    setup = SETUP.format(anna=anna.uri)
    studio.lab.write("widgets.ipynb", setup, "%dpc_ask -t 0 --max-tokens 60 Why is the sky blue?", *cells)
    page = studio.page
    page.set_viewport_size({"width": WIDTH, "height": 1200})
    notebook = NotebookPage(page, studio.lab, "widgets.ipynb")
    page.evaluate("jupyterapp.shell.collapseLeft()")
    for index in (0, 1, 2, 3, 4, 5):
        notebook.run(index)
    miss_carol(page)
    chat = notebook.output(5).locator(".dpc-chat")
    for question in ("Name two colours.", "Write a Python function that adds two numbers."):
        chat.get_by_role("textbox").fill(question)
        chat.get_by_role("textbox").press("Enter")
        expect(chat.get_by_role("button", name="Stop")).to_have_count(1)
        expect(chat.get_by_role("button", name="Stop")).to_have_count(0, timeout=180_000)
    editor = notebook.output(3).locator(".dpc-firewall-editor")
    editor.get_by_label("Who", exact=True).fill("dave")
    editor.get_by_label("Model", exact=True).fill("llama3-70b")
    expect(editor).to_contain_text("No: line")
    for _ in studio.each_theme():
        for index, name in ((2, "host-picker"), (3, "firewall-editor"), (4, "node-panel"), (5, "chat")):
            view = notebook.output(index).locator(".dpc").first
            expect(view).to_be_visible()
            studio.shoot(name, view)
    editor.locator(".dpc-fw-row", has_text="dave").get_by_role("button", name="Edit").click()
    running = editor.get_by_label("Requests at once")
    running.fill("3")
    running.press("Tab")
    editor.get_by_role("button", name="Review").click()
    expect(editor.locator(".dpc-fw-plus").first).to_be_visible()
    for _ in studio.each_theme():
        studio.shoot("firewall-review", editor)
    invite(studio, editor)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def invite(studio: Studio, editor: Locator) -> None:
    """The form of an invitation, below it the line of the one before, and the one before that, which is still open."""
    for name, models in (("heidi", MODEL), ("ivan", "")):
        editor.get_by_role("button", name="Invite somebody").click()
        editor.get_by_label("Your name for who joins").fill(name)
        editor.get_by_label("Models, commas between").fill(models)
        editor.get_by_role("button", name="Make the line").click()
        expect(editor).to_contain_text(f"Invited: {name}")
    editor.get_by_role("button", name="Invite somebody").click()
    for _ in studio.each_theme():
        studio.shoot("invite", editor.locator(".dpc-fw-invitations"))


def reach(studio: Studio, folder: Path) -> None:
    """A host behind a peer that relays, one that the hub shows, and where the node says that it is online."""
    asker = Home(folder / "asker")
    with company(folder, asker) as people:
        setup = f"%env DPC_HOME={asker.path}\n%load_ext dpc_jupyter\nimport dpc_jupyter\n%dpc_start --name bob-laptop"
        connect = f"%dpc_connect {people.rita_uri} --name rita\n%dpc_connect anna"
        cells = [f"dpc_jupyter.{name}()" for name in ("HostPicker", "NodePanel")]
        studio.lab.write("reach.ipynb", setup, connect, *cells)
        page = studio.page
        page.set_viewport_size({"width": WIDTH, "height": 1000})
        notebook = NotebookPage(page, studio.lab, "reach.ipynb")
        page.evaluate("jupyterapp.shell.collapseLeft()")
        for index in range(4):
            notebook.run(index)
        picker, panel = (notebook.output(index).locator(".dpc").first for index in (2, 3))
        expect(panel).to_contain_text("online at")
        picker.get_by_role("button", name="Find hosts at the hub").click()
        expect(picker.get_by_role("listitem")).to_contain_text("dora")
        for _ in studio.each_theme():
            studio.shoot("hub-search", picker)
            studio.shoot("hub", panel)
        page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def quickstart(studio: Studio) -> None:
    """The first notebook, run to its end."""
    shutil.copy(FOLDER / "notebooks" / "01_quickstart.ipynb", studio.lab.folder)
    NotebookPage(studio.page, studio.lab, "01_quickstart.ipynb")
    page = studio.page
    page.set_viewport_size({"width": WIDTH, "height": 1080})
    page.evaluate("jupyterapp.shell.collapseLeft()")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    expect(page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea").last).to_contain_text("Access denied")
    expect(page.locator(".dpc-lab-status")).not_to_contain_text("tokens/s")
    page.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
    for _ in studio.each_theme():
        studio.shoot("quickstart")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def main() -> None:
    """All of them, or those whose scene is named: lab, widgets, reach, quickstart."""
    if browser_path() is None:
        sys.exit("There is no Chromium here: apt-get install chromium")
    wanted = sys.argv[1:] or ["lab", "widgets", "reach", "quickstart"]
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, studio(Path(place)) as (made, anna):
        if "quickstart" in wanted:
            quickstart(made)
        if "widgets" in wanted:
            widgets(made, anna)
        if "reach" in wanted:
            reach(made, Path(place) / "reach")
        if "lab" in wanted:
            lab_views(made, anna, Path(place))


if __name__ == "__main__":
    main()
