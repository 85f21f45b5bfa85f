"""JupyterLab with the extension: the toolbar's host is the cells' host, whatever happens to pages and kernels."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect
from running_host import RunningHost

from browser.conftest import Open
from browser.lab import Lab, NotebookPage
from dpc_jupyter.backends.models import SMOLLM2
from dpc_jupyter.home import Home

LOAD = "%load_ext dpc_jupyter"
WHERE = "print(_dpc.host, _dpc.error, len(_dpc.text) > 0)"
LONG = "%dpc_ask -t 0 --max-tokens 4000 Tell me a very long story of a fox and a hen."


def toolbar(page: Page) -> Locator:
    """The compute host in the toolbar of the notebook in front."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .dpc-lab-host")


def choose(page: Page, host: str) -> None:
    """Pick a host in the toolbar's popup."""
    toolbar(page).click()
    page.get_by_role("dialog", name="Pick a compute host").get_by_role("radio", name=host, exact=True).click()
    expect(toolbar(page)).to_contain_text(host)


def metadata(lab: Lab, notebook: NotebookPage) -> dict[str, object] | None:
    notebook.save()
    kept = lab.read(notebook.name).metadata.get("dpc")
    return None if kept is None else dict(kept)


def test_the_toolbars_host_runs_the_cell_and_is_kept_in_the_notebook(
    open_notebook: Open, page: Page, lab: Lab, anna: RunningHost
) -> None:
    notebook = open_notebook(LOAD, f"%dpc_connect {anna.uri} --name anna", "%dpc_ask -t 0 Name a colour.", WHERE)
    notebook.run(0)
    notebook.run(1)
    expect(toolbar(page)).to_contain_text("Local")
    choose(page, "anna")
    notebook.run(2)
    assert notebook.run(3).strip() == f"{anna.node_id} None True"
    assert metadata(lab, notebook) == {"host": anna.node_id, "name": "anna", "model": None}


def test_a_choice_by_magic_shows_in_the_toolbar_and_a_choice_there_shows_in_the_picker(
    open_notebook: Open, page: Page, anna: RunningHost
) -> None:
    notebook = open_notebook(
        LOAD, f"%dpc_connect {anna.uri} --name anna", "%dpc_host anna", "import dpc_jupyter\ndpc_jupyter.HostPicker()"
    )
    for index in range(4):
        notebook.run(index)
    expect(toolbar(page)).to_contain_text("anna")
    here = notebook.output(3).locator(".dpc-here")
    expect(here).to_contain_text("anna")
    choose(page, "Local")
    expect(here).to_contain_text("Local")
    here.page.locator(".dpc-host-picker").get_by_role("radio", name=f"{SMOLLM2.name} · 2k").last.click()
    expect(toolbar(page)).to_contain_text(f"anna · {SMOLLM2.name}")


def test_stop_ends_the_cell_and_frees_the_hosts_slot(open_notebook: Open, page: Page, anna: RunningHost) -> None:
    notebook = open_notebook(
        LOAD, f"%dpc_connect {anna.uri} --name anna\n%dpc_host anna", LONG, "print(_dpc.finish_reason)"
    )
    notebook.run(0)
    notebook.run(1)
    notebook.start(2)
    expect(notebook.output(2)).to_contain_text("tokens/s")
    status = page.locator(".dpc-lab-status")
    expect(status).to_contain_text("tokens/s")
    notebook.interrupt()
    expect(notebook.output(2)).to_contain_text("Stopped")
    assert notebook.run(3).strip() == "cancelled"
    # By the host's own word, over the wire: nothing runs there any more.
    expect(page.locator(".dpc-lab-status")).not_to_contain_text("tokens/s")
    toolbar(page).click()
    expect(page.get_by_role("dialog").get_by_role("group", name="anna")).to_contain_text("idle")


def test_a_reload_in_the_middle_of_an_answer_loses_no_answer(
    open_notebook: Open, page: Page, anna: RunningHost
) -> None:
    ask = "%dpc_ask -t 0 --max-tokens 700 Tell me a very long story of a fox and a hen."
    notebook = open_notebook(LOAD, f"%dpc_connect {anna.uri} --name anna\n%dpc_host anna", ask, WHERE)
    notebook.run(0)
    notebook.run(1)
    notebook.start(2)
    expect(notebook.output(2)).to_contain_text("tokens/s")
    notebook.reload()
    expect(toolbar(page)).to_contain_text("anna")
    assert notebook.run(3).strip().endswith(f"{anna.node_id} None True")


def test_a_restarted_kernel_asks_the_saved_host_once_it_has_loaded_us(
    open_notebook: Open, page: Page, anna: RunningHost
) -> None:
    notebook = open_notebook(LOAD, f"%dpc_connect {anna.uri} --name anna\n%dpc_host anna", "%dpc_ask -t 0 Hi", WHERE)
    notebook.run(0)
    notebook.run(1)
    expect(toolbar(page)).to_contain_text("anna")
    notebook.restart()
    expect(toolbar(page)).to_contain_text("Load DPC")
    toolbar(page).click()  # loads it, and opens the picker
    expect(page.get_by_role("dialog", name="Pick a compute host")).to_be_visible()
    expect(toolbar(page)).to_contain_text("anna")
    page.keyboard.press("Escape")
    notebook.run(2)
    assert notebook.run(3).strip() == f"{anna.node_id} None True"


def test_run_all_on_a_reopened_notebook_asks_its_host_from_the_first_cell_on(
    open_notebook: Open, page: Page, lab: Lab, anna: RunningHost
) -> None:
    before = open_notebook(LOAD, f"%dpc_connect {anna.uri} --name anna")
    before.run(0)
    before.run(1)
    saved = {"dpc": {"host": anna.node_id, "name": "anna", "model": None}}
    notebook = open_notebook(
        LOAD, "%%dpc_ask -t 0 --max-tokens 8\nHi", "%dpc_ask -t 0 --max-tokens 8 Hi", metadata=saved
    )
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    expect(notebook.output(0)).to_contain_text("This notebook asks anna.")
    for index in (1, 2):
        expect(notebook.output(index)).to_contain_text(f"anna · {SMOLLM2.name}")
    expect(toolbar(page)).to_contain_text("anna")
    assert metadata(lab, notebook) == saved["dpc"]
    for cell in lab.read(notebook.name).cells[1:]:
        assert [output.metadata["dpc"]["host"] for output in cell.outputs] == [anna.node_id]


def test_a_choice_that_was_not_saved_yet_is_newer_than_what_the_kernel_reads(
    open_notebook: Open, page: Page, lab: Lab, anna: RunningHost
) -> None:
    before = open_notebook(LOAD, f"%dpc_connect {anna.uri} --name anna")
    before.run(0)
    before.run(1)
    notebook = open_notebook(LOAD, metadata={"dpc": {"host": anna.node_id, "name": "anna", "model": None}})
    page.evaluate("jupyterapp.shell.currentWidget.model.deleteMetadata('dpc')")
    assert "This notebook asks anna." in notebook.run(0)
    expect(toolbar(page)).to_contain_text("Local")
    assert metadata(lab, notebook) is None


def test_two_notebooks_ask_two_hosts(open_notebook: Open, page: Page, anna: RunningHost, carol: RunningHost) -> None:
    asked = {}
    for name, host in (("anna", anna), ("carol", carol)):
        cells = (LOAD, f"%dpc_connect {host.uri} --name {name}", "%dpc_ask -t 0 Hi", WHERE)
        notebook = open_notebook(*cells, name=f"asks-{name}.ipynb")
        notebook.run(0)
        notebook.run(1)
        choose(page, name)
        asked[name] = notebook
    for name, host in (("carol", carol), ("anna", anna)):
        page.evaluate("(path) => jupyterapp.commands.execute('docmanager:open', { path })", asked[name].name)
        asked[name].wait_for_kernel()
        expect(toolbar(page)).to_contain_text(name)
        asked[name].run(2)
        assert asked[name].run(3).strip() == f"{host.node_id} None True"


def test_a_saved_host_that_was_never_met_is_not_called(open_notebook: Open, page: Page) -> None:
    stranger = {"dpc": {"host": "dpc-node-" + "0" * 32, "name": "mallory", "model": None}}
    notebook = open_notebook(LOAD, metadata=stranger)
    notebook.run(0)
    expect(toolbar(page)).to_contain_text("Local")
    expect(toolbar(page).locator('[aria-label*="mallory"]')).to_be_visible()


def test_an_access_file_that_is_broken_is_told_of_where_the_node_listens(
    open_notebook: Open, page: Page, tmp_path: Path
) -> None:
    home = Home(tmp_path / "sharing")
    share = f"%env DPC_HOME={home.path}\n{LOAD}\n%dpc_start --share --listen 127.0.0.1 --port 0"
    notebook = open_notebook(share)
    notebook.run(0)
    status = page.locator(".dpc-lab-status button")
    expect(status).to_contain_text("Sharing on")
    whole = home.access_path.read_text()
    home.access_path.write_text(whole.replace("{", "{\n,", 1))
    expect(status).to_contain_text("⚠ Access file broken")
    expect(status).to_have_attribute("title", re.compile(f"nobody is let in: {home.access_path}: line 2, column 1: "))
    expect(toolbar(page).get_by_role("img", name="nobody is let in")).to_be_visible()
    status.click()
    expect(page.locator(".dpc-lab-sidebar").get_by_role("alert")).to_contain_text("line 2, column 1")
    home.access_path.write_text(whole)
    expect(status).to_contain_text("Sharing on")
    expect(toolbar(page)).not_to_contain_text("⚠")


def test_a_killed_kernel_is_told_of_and_a_new_one_works(open_notebook: Open, page: Page) -> None:
    notebook = open_notebook(LOAD, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    notebook.run(0)
    expect(toolbar(page)).to_contain_text("Local")
    notebook.start(1)
    expect(toolbar(page)).to_contain_text("Load DPC")  # the server has started a new kernel by itself
    notebook.wait_for_kernel()
    notebook.run(0)
    expect(toolbar(page)).to_contain_text("Local")
