"""How a host is reached, and how it is found, in the faces of a node that has a hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.company import CLOSED, Company, company
from browser.conftest import Open
from browser.lab import NotebookPage
from browser.test_accessibility import AXE, THEMES, findings, press, tab_to
from browser.test_lab import LOAD, toolbar
from dpc_jupyter.home import Home

_TOOLTIP = """(fact) => {
  const { x, y, width, height } = fact.getBoundingClientRect();
  return document.elementFromPoint(x + width / 2, y + height / 2).closest("[title]")?.title;
}"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("reaching") / "asker")


@pytest.fixture(scope="module")
def people(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with company(tmp_path_factory.mktemp("company"), home) as made:
        yield made


@pytest.fixture
def notebook(open_notebook: Open, home: Home, people: Company) -> NotebookPage:
    """A picker below its second cell, a panel below its third."""
    cells = ("import dpc_jupyter\ndpc_jupyter.HostPicker()", "dpc_jupyter.NodePanel()")
    opened = open_notebook(f"%env DPC_HOME={home.path}\n{LOAD}\n%dpc_start", *cells, *_connecting(people))
    for index in range(3):
        opened.run(index)
    return opened


def _connecting(people: Company) -> tuple[str, str]:
    return f"%dpc_connect {people.rita_uri} --name rita", "%dpc_connect anna"


def row(face: Locator, name: str) -> Locator:
    return face.locator(".dpc-row", has=face.page.get_by_text(name, exact=True))


def test_a_host_is_found_at_the_hub_and_linked_to_by_keys_alone(
    notebook: NotebookPage, page: Page, people: Company
) -> None:
    picker = notebook.output(1).locator(".dpc-host-picker")
    hub = f"Hub: online at {people.hub.url}"
    expect(notebook.output(2).locator(".dpc-node-panel")).to_contain_text(hub)
    search = picker.get_by_role("searchbox")
    search.focus()
    page.keyboard.insert_text("dor")
    find = picker.get_by_role("button", name="Find “dor” at the hub")
    expect(find).to_have_attribute("title", hub)
    tab_to(page, find)
    press(page, "Enter")
    found = picker.get_by_role("listitem")
    expect(found).to_have_count(1)
    expect(found).to_contain_text("dora")
    expect(picker).to_contain_text("found at the hub, by its word")
    page.add_script_tag(path=AXE)
    for theme in THEMES:
        page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)  # or Lab removes it twice at the next change
        assert findings(page, ".jp-OutputArea .dpc-host-picker") == []
    tab_to(page, picker.get_by_role("button", name="Connect to dora"))
    press(page, "Enter")
    expect(row(picker, "dora")).to_contain_text("WebRTC")
    expect(picker.get_by_role("radio", name="dora", exact=True)).to_be_focused()
    expect(found).to_have_count(0)
    expect(picker).to_contain_text("You are linked to all that it shows you.")
    toolbar(page).click()
    popup = page.get_by_role("dialog", name="Pick a compute host")
    expect(popup.get_by_role("button", name="Find hosts at the hub")).to_be_visible()


def test_a_host_behind_a_peer_says_who_relays_and_what_else_was_tried(notebook: NotebookPage, people: Company) -> None:
    assert "by TLS at 127.0.0.1:" in notebook.run(3) and "Tried" not in notebook.output(3).inner_text()
    faces = notebook.output(1), notebook.output(2)
    for face in faces:
        expect(row(face, "rita")).to_contain_text("TLS")
        expect(row(face, "anna")).to_contain_text("via rita")
    tried = f"Tried as well: TLS at {CLOSED} (Nothing listens at {CLOSED})"
    said = notebook.run(4)
    assert "over rita." in said and tried in said
    for face in faces:
        anna = row(face, "anna")
        expect(anna.get_by_role("img", name="ready")).to_be_visible()
        expect(anna).to_contain_text("via rita")
        anna.scroll_into_view_if_needed()
        assert tried in (anna.locator(".dpc-fact").last.evaluate(_TOOLTIP) or "")
