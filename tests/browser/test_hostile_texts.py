"""What a peer says is shown and does nothing: in cells, in every face of Lab, and in what nbconvert publishes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dptp_v15_peer as v15
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, Page, expect

from browser.conftest import Open
from browser.hostile_peers import HostilePeers, hostile_peers
from browser.hostile_texts import COMMAND, EVIL, TEXTS
from browser.lab import Lab, NotebookPage
from browser.test_lab import toolbar
from browser.watch import Watch
from dpc_jupyter.home import Home

EACH = list(TEXTS.values())
# nbconvert's own template asks these for MathJax, require.js and mermaid.
NBCONVERTS_HOSTS = frozenset({"cdnjs.cloudflare.com", "cdn.jsdelivr.net", "unpkg.com"})
LIVE = """
import dpc_jupyter.jupyter.drawing.display as display
display.QUIET_S = 0  # each line of waiting is drawn
for uri in uris:
    ip.run_line_magic("dpc_ask", f"-H {uri} Say it.")
"""
RAW = 'for uri in uris:\n    ip.run_line_magic("dpc_ask", f"-H {uri} --raw Say it at once.")'
FAILING = """
display.QUIET_S = 9  # nothing below but the errors
for uri in uris:
    ip.run_cell(f"%dpc_ask -H {uri} Please fail.")
failed = ip.run_cell(f"%dpc_connect {refusing}")
"""
MODELS = 'for uri in uris:\n    ip.run_line_magic("dpc_models", uri)'
OWN_FORMULA = r'from IPython.display import Math; Math(r"\cos x + \sin y + \tan z")'
CHATTING = """
import time
for prompt in ("Say it at once.", "Please fail."):
    for uri in uris:
        chat._conversation.ask(prompt, uri.rpartition("=")[2], None)
        while chat._conversation.state()["running"]:
            time.sleep(0.005)
"""


@pytest.fixture(scope="module")
def identities() -> list[v15.Identity]:
    return [v15.make_identity() for _ in range(len(EACH) + 1)]


@pytest.fixture(scope="module")
def peers(identities: list[v15.Identity]) -> Iterator[HostilePeers]:
    with hostile_peers(identities, EACH, refusal=" ".join(EACH)) as peers:
        yield peers


@pytest.fixture
def home(tmp_path: Path, identities: list[v15.Identity]) -> Home:
    """Of somebody who links to all of them, though they are old."""
    home = Home(tmp_path / "asker")
    home.load_identity()
    old = {identity.node_id: {"legacy_ok": True} for identity in identities}
    home.edit_access(lambda document: {**document, "nodes": old})
    return home


@pytest.fixture
def watch(page: Page, lab: Lab) -> Watch:
    return Watch(page, lab.url)


@pytest.fixture
def opened(open_notebook: Open, watch: Watch, home: Home, peers: HostilePeers) -> Open:
    """Opens a notebook whose first cell has linked to everybody."""

    def open_it(*cells: str, **settings: object) -> NotebookPage:
        uris = [host.address for host in peers.hosts]
        links = f"ip, uris, refusing = get_ipython(), {uris[:-1]!r}, {uris[-1]!r}\n"
        links += f"%env DPC_HOME={home.path}\n%load_ext dpc_jupyter\n"
        links += 'for uri in uris: ip.run_line_magic("dpc_connect", uri)'
        notebook = open_notebook(links, *cells, **settings)
        watch.watch_commands()
        said = notebook.run(0)
        assert said.count("Connected to") == len(EACH), said
        return notebook

    return open_it


def published(notebook: NotebookPage, browser: Browser, folder: Path) -> tuple[Page, Watch]:
    """The saved notebook as nbconvert's page, open in a browser without a network."""
    notebook.save()
    html, _ = HTMLExporter().from_filename(str(notebook.lab.folder / notebook.name))
    file = folder / "published.html"
    file.write_text(html)
    page = browser.new_context().new_page()
    watch = Watch(page, file.as_uri(), NBCONVERTS_HOSTS)
    page.goto(file.as_uri())
    page.wait_for_load_state()
    return page, watch


def outputs(notebook: NotebookPage, index: int) -> Locator:
    return notebook.output(index).locator(".jp-OutputArea-output")


def wait_for_formulas(page: Page) -> None:
    """MathJax works through them some time after they are there."""
    expect(page.locator(".jp-OutputArea mjx-container").first).to_be_attached()
    page.wait_for_function(
        """() => {
          const now = document.querySelectorAll("mjx-container").length, same = now === window.__formulas;
          window.__formulas = now;
          return same;
        }""",
        polling=700,
    )


def assert_lab_did_nothing(watch: Watch, lab: Lab) -> None:
    watch.assert_nothing_happened()
    assert watch.commands() and not {COMMAND, "application:close-all"} & set(watch.commands())
    assert [each.name for each in lab.folder.iterdir() if each.is_dir() and not each.name.startswith(".")] == []


def test_answers_errors_and_tables_in_cells_do_nothing(
    opened: Open, page: Page, lab: Lab, watch: Watch, browser: Browser, tmp_path: Path
) -> None:
    tables = "%dpc_peers\n%dpc_status\n%dpc_usage"
    notebook = opened(LIVE, RAW, FAILING, MODELS, tables, OWN_FORMULA)
    for index in range(1, 7):
        notebook.run(index)
    for index in (1, 2, 4):
        expect(outputs(notebook, index)).to_have_count(len(EACH))
    expect(outputs(notebook, 3)).to_have_count(len(EACH) + 1)  # and the one that turned us away
    wait_for_formulas(page)
    formula = notebook.output(6).locator("mjx-assistive-mml").text_content() or ""
    assert "cos" in formula and "sin" in formula and "tan" in formula and "EVIL" not in formula
    # Names of peers and models are never formulas.
    assert page.locator("table mjx-container").count() == 0
    assert notebook.output(3).locator("mjx-container").count() == 0
    links = watch.click_everything(".jp-OutputArea-output")
    assert f"{EVIL}/page" in links and f"{EVIL}/auto" in links and "mailto:a@evil.example" in links
    assert_lab_did_nothing(watch, lab)

    there, watching = published(notebook, browser, tmp_path)
    try:
        assert "red" in there.locator("main").inner_text()
        assert f"{EVIL}/page" in watching.click_everything(".jp-RenderedHTMLCommon")
        watching.assert_nothing_happened()
    finally:
        there.context.close()


def test_names_and_models_in_the_faces_do_nothing(
    opened: Open, page: Page, lab: Lab, watch: Watch, peers: HostilePeers
) -> None:
    chat = "chat = dpc_jupyter.Chat()\nchat"
    notebook = opened("import dpc_jupyter\ndpc_jupyter.HostPicker()", "dpc_jupyter.NodePanel()", chat, CHATTING)
    page.evaluate("jupyterapp.commands.execute('dpc:open-panel')")
    for index in range(1, 5):
        notebook.run(index)
    picker = notebook.output(1).locator(".dpc-host-picker")
    expect(picker.locator(".dpc-row")).to_have_count(len(EACH) + 1)
    expect(notebook.output(3).locator(".dpc-chat-assistant .dpc-chat-html")).to_have_count(2 * len(EACH))
    expect(notebook.output(3).locator(".dpc-chat-error")).to_have_count(len(EACH))
    # Each of them as the chosen one: in the toolbar, the status bar and the chat's list too.
    for index in range(picker.locator(".dpc-chip").count()):
        chip = picker.locator(".dpc-chip").nth(index)
        chip.dispatch_event("click")
        expect(chip).to_have_attribute("aria-checked", "true")
    expect(page.locator(".dpc-lab-status")).to_be_visible()
    toolbar(page).click()
    expect(page.get_by_role("dialog", name="Pick a compute host").locator(".dpc-row")).to_have_count(len(EACH) + 1)
    page.keyboard.press("Escape")
    assert notebook.output(3).locator("select option").count() > len(EACH)
    watch.click_everything(".dpc-chat-log")
    assert_lab_did_nothing(watch, lab)

    # Why one cannot be reached, and why one would not have us.
    picker.get_by_role("button", name="Connect to a host").click()
    picker.get_by_label("The dpc:// address").fill(peers.hosts[-1].address)
    picker.get_by_role("button", name="Connect", exact=True).click()
    expect(picker.get_by_role("alert")).to_contain_text("onerror")
    for host in (peers.hosts[0], peers.hosts[-1]):
        page.evaluate("void jupyterapp.commands.execute('dpc:connect')")
        page.locator(".jp-Dialog input").fill(host.address)
        page.locator(".jp-Dialog .jp-mod-accept").click()
    expect(page.locator(".jp-Dialog")).to_contain_text("onerror")
    page.locator(".jp-Dialog button").last.click()
    peers.say_goodbye()
    expect(picker.locator(".dpc-row.dpc-away")).to_have_count(len(EACH))
    assert_lab_did_nothing(watch, lab)


def test_who_asks_does_nothing_in_the_firewall_editor(
    open_notebook: Open,
    page: Page,
    lab: Lab,
    watch: Watch,
    home: Home,
    identities: list[v15.Identity],
    peers: HostilePeers,
) -> None:
    notebook = open_notebook(
        f"%env DPC_HOME={home.path}\n%load_ext dpc_jupyter\n%dpc_start --share --listen 127.0.0.1 --port 0",
        "import dpc_jupyter\ndpc_jupyter.FirewallEditor()",
        "%dpc_firewall pending",
    )
    watch.watch_commands()
    port = int(notebook.run(0).rpartition("?")[0].rpartition(":")[2])
    notebook.run(1)
    editor = notebook.output(1).locator(".dpc-firewall-editor")
    peers.ask_at(port, identities[: len(EACH)], EACH)
    expect(editor.locator(".dpc-fw-pending")).to_have_count(len(EACH))
    notebook.run(2)
    assert_lab_did_nothing(watch, lab)
    for _ in range(4):
        left = editor.locator(".dpc-fw-pending").count()
        editor.get_by_role("button", name="Allow for a week").last.dispatch_event("click")
        expect(editor.locator(".dpc-fw-pending")).to_have_count(left - 1)
    for text in EACH[:6]:
        editor.get_by_label("Who", exact=True).fill(text)
        editor.get_by_label("Model", exact=True).fill(text)
    expect(editor.locator(".dpc-fw-answer")).to_contain_text("No node is called")
    assert_lab_did_nothing(watch, lab)
