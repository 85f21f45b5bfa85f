from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hub.running_hub import RunningHub
from node.stub import StubEngine
from node.waiting import until_in_thread

from dpc_jupyter import firewall
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from dpc_jupyter.jupyter.notebook import Notebook
from dpc_jupyter.node.reaching.network import set_hub
from dpc_jupyter.node.thread import BackgroundNode
from jupyter.kernel import Kernel
from jupyter.screen import Refused, Screen


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "hub").start()
    yield running
    running.kill()


@contextmanager
def host_at(hub: RunningHub, folder: Path, asker: Identity) -> Iterator[BackgroundNode]:
    """Anna, who lets the asker use one of her two models."""
    home = Home(folder)
    set_hub(home, hub.url)
    home.edit_access(lambda document: firewall.set_enabled(document, True))
    home.edit_access(lambda document: firewall.allow(document, asker.node_id, models=["stub-1"]))
    node = BackgroundNode(home, name="anna", registry=Registry([StubEngine()]))
    node.start(("127.0.0.1", 0))
    try:
        yield node
    finally:
        node.stop()


def test_a_hub_is_set_shown_and_taken_away_while_the_node_runs_and_for_the_next_start(
    kernel: Kernel, asker_home: Home, hub: RunningHub
) -> None:
    assert kernel.ok("%dpc_hub").stdout.startswith("No hub is set: %dpc_hub https://")
    assert "is none of off, search, show and an address" in kernel.run("%dpc_hub on").sentence
    assert "not encrypted" in kernel.run("%dpc_hub http://hub.example.org").sentence
    kernel.ok("%dpc_start")
    assert "Hub:" not in kernel.ok("%dpc_status").stdout
    assert f"names the hub {hub.url}.\nThis node is " in kernel.ok(f"%dpc_hub {hub.url}").stdout
    until_in_thread(lambda: kernel.ok("%dpc_hub").stdout == f"This node is online at {hub.url}\n")
    assert f"Hub: online at {hub.url} (it can call others, and is not called)\n" in kernel.ok("%dpc_status").stdout
    kernel.ok("%dpc_start --share --listen 127.0.0.1 --port 0")
    until_in_thread(lambda: f"Hub: online at {hub.url}\n" in kernel.ok("%dpc_status").stdout)
    off = kernel.ok("%dpc_hub off").stdout
    assert "names no hub now." in off and "at no hub now." in off
    assert asker_home.read_network() == {} and "Hub:" not in kernel.ok("%dpc_status").stdout
    kernel.ok("%dpc_stop")
    assert kernel.ok(f"%dpc_hub {hub.url}").stdout.endswith("from the next %dpc_start on.\n")
    assert kernel.ok("%dpc_hub").stdout == f"The next %dpc_start goes online at {hub.url}.\n"


def test_the_hub_is_searched_from_a_cell(
    kernel: Kernel, asker: Identity, asker_home: Home, hub: RunningHub, tmp_path: Path
) -> None:
    assert "No hub is set. %dpc_hub https://" in kernel.run("%dpc_hub search").sentence
    kernel.ok("%dpc_stop")
    set_hub(asker_home, hub.url)
    with host_at(hub, tmp_path / "host", asker) as node:
        until_in_thread(lambda: "anna" in str(kernel.ok("%dpc_hub search --model stub\nimport time; time.sleep(1)")))
        assert "anna" in kernel.ok("%dpc_hub search ann --model stub").text
        assert "shows nobody such" in kernel.ok("%dpc_hub search nobody").stdout
        assert "Which name?" in kernel.run("%dpc_hub search ann --name anna").sentence
        assert "'now' is one word too many" in kernel.run("%dpc_hub off now").sentence
        found = kernel.ok("%dpc_hub search --name ann")
        assert found.text.splitlines()[1].split() == ["anna", node.status().node_id, "stub-1"]
        assert "That is the hub's word." in found.stdout
        assert kernel.ok("%dpc_hub search --model llama").stdout.startswith("The hub shows nobody such to you.")


def found_by(screen: Screen, words: str) -> Any:
    for _ in range(40):
        if found := screen.call("find", words=words):
            return found
        time.sleep(0.6)  # searches are counted
    raise AssertionError("nobody was found")


def test_a_face_finds_a_host_by_name_model_or_group_at_the_hub_and_links_to_it_by_its_id(
    notebook: Notebook, screen: Screen, asker: Identity, asker_home: Home, hub: RunningHub, tmp_path: Path
) -> None:
    notebook.node()
    with pytest.raises(Refused, match="No hub is set"):
        screen.call("find", words="anna")
    notebook.stop()
    set_hub(asker_home, hub.url)
    notebook.node()
    screen.shows("node", hub=f"online at {hub.url}")
    with host_at(hub, tmp_path / "host", asker) as node:
        anna = {"id": node.status().node_id, "name": "anna", "models": ["stub-1"]}
        assert found_by(screen, "") == [anna]
        assert screen.call("find", words="NN") == screen.call("find", words="ub-1") == [anna]
        assert screen.call("find", words="stub-2") == screen.call("find", words="x" * 500) == []
        lab = {"node_groups": {"lab": [asker.node_id]}, "compute": {"enabled": True, "allow_groups": ["lab"]}}
        node.service.home.edit_access(lambda document: document | lab)
        assert found_by(screen, "lab") == [anna]
        screen.call("connect", address=anna["id"])
        assert screen.host(node.status().node_id, state="ready")["name"] == "anna"
