"""A real JupyterLab in a real browser, beside real hosts with the real embedded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_host import RunningHost, let_in, serving, write_providers

from browser.lab import Lab, NotebookPage, browser_path, running_lab
from dpc_jupyter.home import Home

expect.set_options(timeout=30_000)
_MISSING = "no Chromium and no Chrome here: JupyterLab was NOT tested in a browser (apt-get install chromium)"
Open = Callable[..., NotebookPage]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if browser_path() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(_MISSING))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if browser_path() is None:
        terminalreporter.write_line(f"!!! {_MISSING}", red=True, bold=True)


# "package", not "session": Playwright's own event loop must be gone before tests that bring theirs.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="package")
def asker(place: Path) -> Home:
    """The home of whoever sits before the browser; its own engine is the embedded model, too."""
    home = Home(place / "asker")
    home.load_identity()
    write_providers(home)
    return home


def _host(home: Home, asker: Home) -> Iterator[RunningHost]:
    write_providers(home)
    let_in(home, asker.load_identity().node_id)
    with serving(home) as host:
        yield host


@pytest.fixture(scope="package")
def anna(place: Path, asker: Home) -> Iterator[RunningHost]:
    """A host that lets the asker in, in a process of its own."""
    yield from _host(Home(place / "anna"), asker)


@pytest.fixture(scope="package")
def carol(place: Path, asker: Home) -> Iterator[RunningHost]:
    """Another one."""
    yield from _host(Home(place / "carol"), asker)


@pytest.fixture(scope="package")
def lab(place: Path, asker: Home) -> Iterator[Lab]:
    with running_lab(place, {"DPC_HOME": str(asker.path)}) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own; whatever throws in it fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    yield page
    context.close()
    assert thrown == []


@pytest.fixture
def open_notebook(page: Page, lab: Lab, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make a notebook of these cells and open it in Lab; its kernel ends with the test."""
    opened: list[NotebookPage] = []

    def open_it(*cells: str, name: str = "", **settings: object) -> NotebookPage:
        file = name or f"{request.node.name[:60]}-{len(opened)}.ipynb"
        lab.write(file, *cells, **settings)  # type: ignore[arg-type]
        opened.append(NotebookPage(page, lab, file))
        return opened[-1]

    yield open_it
    if opened:
        page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
