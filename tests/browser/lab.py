"""A real JupyterLab in a process of its own, and a page of a real browser that shows it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page

START_S = 60.0
# A cold kernel on a busy machine of two cores; waiting ends as soon as what is waited for is there.
LIMIT_MS = 60_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser_path() -> str | None:
    """An installed Chromium or Chrome."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Lab:
    """A running server, and the folder whose notebooks it shows."""

    url: str
    folder: Path

    def write(self, name: str, *cells: str, metadata: dict[str, Any] | None = None) -> str:
        """Make a notebook of these cells; returns its name."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata = {"kernelspec": kernel, **(metadata or {})}
        nbformat.write(notebook, self.folder / name)
        return name

    def read(self, name: str) -> Any:
        """A notebook as it was saved."""
        return nbformat.read(self.folder / name, as_version=4)


@contextmanager
def running_lab(folder: Path, environment: dict[str, str]) -> Iterator[Lab]:
    """JupyterLab on a free loopback port, without anything of the user's own."""
    own = folder / "jupyter"
    work = folder / "work"
    settings = own / "config" / "labconfig"
    settings.mkdir(parents=True)
    work.mkdir()
    (settings / "page_config.json").write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--allow-root",
        "--no-browser",
        "--LabApp.expose_app_in_browser=True",
    ]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--ServerApp.root_dir={work}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True"]
    places = {
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    log = folder / "lab.log"
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, env={**os.environ, **places, **environment}, stdout=out, stderr=out, start_new_session=True
        ) as server,
    ):
        try:
            _wait_until_up(url, server, log)
            yield Lab(url, work)
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/api", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()}")


class NotebookPage:
    """One notebook in one tab."""

    def __init__(self, page: Page, lab: Lab, name: str) -> None:
        self.page = page
        self.lab = lab
        self.name = name
        page.set_default_timeout(LIMIT_MS)
        page.goto(f"{lab.url}/lab/tree/{name}?reset")
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Until code can run: the "idle" mark shows before that."""
        self.page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context?.sessionContext?.session?.kernel")
        self.page.evaluate(
            """async () => {
              const context = jupyterapp.shell.currentWidget.context.sessionContext;
              await context.ready;
              await context.session.kernel.info;
            }"""
        )

    def reload(self) -> None:
        """As a user presses F5, the notebook saved before."""
        self.save()
        self.page.reload()
        self.wait_for_kernel()

    def save(self) -> None:
        """Write the notebook down."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def start(self, index: int) -> None:
        """Run a cell, and do not wait for it."""
        self.page.evaluate(
            """(index) => {
              jupyterapp.shell.currentWidget.content.activeCellIndex = index;
              void jupyterapp.commands.execute('notebook:run-cell');
            }""",
            index,
        )

    def run(self, index: int) -> str:
        """Run a cell to its end; returns what its output says."""
        self.page.evaluate(
            """async (index) => {
              jupyterapp.shell.currentWidget.content.activeCellIndex = index;
              await jupyterapp.commands.execute('notebook:run-cell');
            }""",
            index,
        )
        return self.output(index).inner_text() if self.output(index).count() else ""

    def cell(self, index: int) -> Locator:
        """A cell."""
        return self.page.locator(f'.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell[data-windowed-list-index="{index}"]')

    def output(self, index: int) -> Locator:
        """What a cell shows below itself."""
        return self.cell(index).locator(".jp-OutputArea")

    def interrupt(self) -> None:
        """The Stop button."""
        self.page.locator(
            '.jp-NotebookPanel:not(.lm-mod-hidden) [data-command="notebook:interrupt-kernel"]'
        ).first.click()

    def restart(self) -> None:
        """Restart the kernel, without the question."""
        self.page.evaluate(
            "async () => { await jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart(); }"
        )
        self.wait_for_kernel()
