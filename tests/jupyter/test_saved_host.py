"""A notebook that is opened again, all of its cells run before any page has said a word."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from running_host import RunningHost

from dpc_jupyter import firewall
from dpc_jupyter.errors import ConnectError
from dpc_jupyter.home import Home
from dpc_jupyter.jupyter import saved_host
from dpc_jupyter.jupyter.notebook import Notebook, asks
from dpc_jupyter.jupyter.saved_host import SESSION_NAME, SavedHost
from jupyter.conftest import StubHost
from jupyter.kernel import Kernel
from jupyter.screen import Screen

STRANGER = "dpc-node-" + "0" * 32
Open = Callable[[dict[str, Any]], Kernel]


def meet(home: Home, uri: str, name: str = "anna") -> str:
    """As if this home had linked to a host some days ago; returns its node id."""
    node_id = uri.rpartition("=")[2]
    entry = {"name": name, "uri": uri, "last_seen": int(time.time()) - 300_000}
    home.edit_peers(lambda known: {**known, node_id: entry})
    return node_id


@pytest.fixture
def open_again(environment: dict[str, str], tmp_path: Path) -> Iterator[Open]:
    """A kernel as jupyter_server starts it for a saved notebook with this under ``metadata.dpc``."""
    kernels: list[Kernel] = []

    def open_it(dpc: dict[str, Any]) -> Kernel:
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%load_ext dpc_jupyter")])
        made.metadata = {"dpc": dpc}
        nbformat.write(made, tmp_path / "saved.ipynb")
        kernels.append(Kernel({**environment, SESSION_NAME: str(tmp_path / "saved.ipynb")}))
        return kernels[-1]

    yield open_it
    for each in kernels:
        each.close()


def test_the_first_cell_of_a_reopened_notebook_asks_its_host(
    open_again: Open, asker_home: Home, real_host: RunningHost
) -> None:
    node_id = meet(asker_home, real_host.uri)
    kernel = open_again({"host": node_id, "name": "called otherwise", "model": None})
    assert kernel.loading_said == "This notebook asks anna.\n"
    assert kernel.ok("%dpc_status").stdout.startswith("No node runs"), "loading calls nobody"
    ran = kernel.ok("%%dpc_ask -t 0 --max-tokens 4\nHello")
    assert ran.facts["host"] == node_id and ran.text.splitlines()[-1].startswith("anna · smollm2:135m")
    assert kernel.ok("%dpc_host local").stdout == "This notebook asks this machine.\n"


def test_its_model_is_asked_for_too(open_again: Open, asker_home: Home, stub_host: StubHost) -> None:
    kernel = open_again({"host": meet(asker_home, stub_host.uri), "name": "anna", "model": "stub-2"})
    assert kernel.loading_said == "This notebook asks anna for stub-2.\n"
    assert kernel.ok("%dpc_models").text.count("stub-") == 2
    assert kernel.ok("%dpc_ask Hello").facts["model"] == "stub-2"


def test_a_reopened_notebook_whose_host_is_away_says_so_and_asks_nobody_else(
    open_again: Open, asker_home: Home
) -> None:
    node_id = meet(asker_home, f"dpc://127.0.0.1:1?node_id={STRANGER}")
    kernel = open_again({"host": node_id, "name": "anna", "model": None})
    for cell in ("%dpc_ask Hello", "%dpc_ask -H anna Hello"):
        assert kernel.run(cell).sentence.startswith("anna cannot be reached: Nothing listens at 127.0.0.1:1.")
        assert kernel.value("_dpc.text + _dpc.error").startswith("anna cannot be reached")
    assert kernel.run("%dpc_models").sentence.startswith("anna cannot be reached")


def test_a_strangers_notebook_calls_nobody(open_again: Open, stub_host: StubHost) -> None:
    node_id = stub_host.node.service.identity.node_id
    kernel = open_again({"host": node_id, "name": "anna", "model": "stub-1"})
    assert kernel.loading_said == ""
    assert kernel.ok("%dpc_host").stdout == "This notebook asks this machine.\n"
    kernel.run("%dpc_ask Hello")
    assert stub_host.node.status().peers == () and stub_host.engine.seen == []


def test_a_known_host_is_linked_by_its_first_question(kernel: Kernel, asker_home: Home, stub_host: StubHost) -> None:
    node_id = meet(asker_home, stub_host.uri)
    assert kernel.ok("%dpc_ask -H anna Hello").facts["host"] == node_id
    kernel.ok("%dpc_disconnect anna")
    assert "stub-1" in kernel.ok("%dpc_models anna").text


# What is restored, and what the page hears of it.


def test_whoever_the_owner_has_named_is_known_too(notebook: Notebook, asker_home: Home) -> None:
    assert not notebook.restore(STRANGER, None) and notebook.host == "local"
    asker_home.edit_access(lambda document: firewall.allow(document, STRANGER, name="ze\u202e\x1b[31mro"))
    assert notebook.restore(STRANGER, "\x1b]0;owned\x07m") and notebook.host == STRANGER
    assert asks(notebook) == "This notebook asks zero for m."


def test_where_nobody_can_tell_who_is_known_nobody_is(notebook: Notebook, asker_home: Home) -> None:
    meet(asker_home, f"dpc://127.0.0.1:1?node_id={STRANGER}")
    (asker_home.path / "peers.json").write_text("{")
    assert not notebook.restore(STRANGER, None)


def test_faces_see_that_a_choice_is_the_files_until_somebody_makes_one(notebook: Notebook, screen: Screen) -> None:
    assert notebook.restore("local", "stub-2")
    notebook.changed()
    screen.shows("chosen", id="local", model="stub-2", restored=True)
    notebook.choose("local", "stub-2")
    screen.until(lambda: screen.state["chosen"] == {"id": "local", "name": "this machine", "model": "stub-2"})


def test_a_link_that_fails_names_the_host_and_an_address_stands_for_itself(
    notebook: Notebook, asker_home: Home
) -> None:
    address = f"dpc://127.0.0.1:1?node_id={STRANGER}"
    meet(asker_home, address)
    for host in ("anna", STRANGER):
        with pytest.raises(ConnectError, match=r"^anna cannot be reached: Nothing"):
            notebook.choose(host)
    with pytest.raises(ConnectError, match=r"^Nothing listens"):
        notebook.choose(address)


# The file.

WHOLE = {"cells": [], "metadata": {"dpc": {"host": STRANGER, "name": "zero", "model": "m"}}}


def written(path: Path, what: bytes | object, monkeypatch: pytest.MonkeyPatch) -> SavedHost | None:
    path.write_bytes(what if isinstance(what, bytes) else json.dumps(what).encode())
    monkeypatch.setenv(SESSION_NAME, str(path))
    return saved_host.saved_host()


def test_a_file_tells_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(tmp_path / "a.ipynb", WHOLE, monkeypatch) == SavedHost(STRANGER, "m")
    first = {"metadata": {"dpc": {"host": STRANGER}}}
    assert written(tmp_path / "a.ipynb", first, monkeypatch) == SavedHost(STRANGER, None)
    monkeypatch.delenv(SESSION_NAME)
    assert saved_host.saved_host() is None


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"metadata": 3}',
        b'{"metadata": {}}',
        b'{"cells": ' + b"[" * 100_000,
        {"metadata": {"dpc": [STRANGER]}},
        {"metadata": {"dpc": {"name": "zero"}}},
        {"metadata": {"dpc": {"host": 7}}},
        {"metadata": {"dpc": {"host": STRANGER, "model": "m" * 201}}},
    ],
)
def test_a_broken_file_is_as_if_there_were_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bytes | object
) -> None:
    assert written(tmp_path / "a.ipynb", broken, monkeypatch) is None


def test_what_is_no_notebook_or_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(tmp_path / "a.py", WHOLE, monkeypatch) is None
    monkeypatch.chdir(tmp_path)
    assert written(Path("b.ipynb"), WHOLE, monkeypatch) is None, "relative to whose folder?"
    with monkeypatch.context() as smaller:
        smaller.setattr(saved_host, "FILE_LIMIT_BYTES", 40)
        assert written(tmp_path / "c.ipynb", WHOLE, smaller) is None
    os.mkfifo(tmp_path / "d.ipynb")
    for path in (tmp_path / "d.ipynb", tmp_path, tmp_path / "gone.ipynb"):
        monkeypatch.setenv(SESSION_NAME, str(path))
        assert saved_host.saved_host() is None
