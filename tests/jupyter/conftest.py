from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from node.stub import StubEngine
from node.waiting import until_in_thread
from running_host import RunningHost, let_in, serving, write_providers

from dpc_jupyter import firewall, identity
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from dpc_jupyter.jupyter.faces import Faces
from dpc_jupyter.jupyter.notebook import Notebook
from dpc_jupyter.node.thread import BackgroundNode
from jupyter.kernel import Kernel
from jupyter.screen import Screen


@pytest.fixture(scope="session")
def asker() -> Identity:
    """Who asks, in every test here."""
    return identity.generate()


@pytest.fixture
def asker_home(tmp_path: Path, asker: Identity) -> Home:
    folder = tmp_path / "asker"
    folder.mkdir(0o700)
    for name, data in (("node.key", asker.key_pem), ("node.crt", asker.cert_pem), ("node.id", asker.node_id.encode())):
        (folder / name).touch(0o600)
        (folder / name).write_bytes(data)
    return Home(folder)


@pytest.fixture
def environment(asker_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """No test touches the user's own Jupyter or node."""
    places = {
        "DPC_HOME": str(asker_home.path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "OLLAMA_HOST": "127.0.0.1:1",
    }
    for name, place in places.items():
        monkeypatch.setenv(name, place)
    return {**os.environ, **places}


@pytest.fixture
def kernel(environment: dict[str, str]) -> Iterator[Kernel]:
    """A real kernel with the extension loaded."""
    running = Kernel(environment)
    yield running
    running.close()


@pytest.fixture(scope="session")
def real_host(tmp_path_factory: pytest.TempPathFactory, asker: Identity) -> Iterator[RunningHost]:
    """A second process with the embedded model, which lets the asker use one of its two models."""
    home = Home(tmp_path_factory.mktemp("host") / "home")
    write_providers(home)
    let_in(home, asker.node_id)
    with serving(home) as host:
        yield host


@dataclass
class StubHost:
    """A host whose engine is a stub: where timing must be controlled, or what was asked must be seen."""

    node: BackgroundNode
    engine: StubEngine
    uri: str

    @property
    def busy(self) -> int:
        return len(self.node.status().serving)


@pytest.fixture
def stub_host(tmp_path: Path, asker: Identity) -> Iterator[StubHost]:
    """A stub engine behind a real node and a real TLS link."""
    home = Home(tmp_path / "stub-host")
    home.edit_access(lambda document: firewall.set_enabled(document, True))
    home.edit_access(lambda document: firewall.allow(document, asker.node_id, name="tester"))
    engine = StubEngine(slots=1)
    node = BackgroundNode(home, name="stub-host", registry=Registry([engine]))
    node.start(("127.0.0.1", 0))
    uri = node.status().uri
    assert uri is not None
    yield StubHost(node, engine, uri)
    node.stop()


@pytest.fixture
def asking(stub_host: StubHost, kernel: Kernel) -> Kernel:
    """A kernel whose notebook asks the stub host."""
    kernel.ok(f"%dpc_connect {stub_host.uri} --name anna")
    kernel.ok("%dpc_host anna")
    return kernel


@pytest.fixture
def notebook(environment: dict[str, str]) -> Iterator[Notebook]:
    made = Notebook({})
    yield made
    made.stop()


@pytest.fixture
def faces(notebook: Notebook) -> Iterator[Faces]:
    made = Faces(notebook)
    yield made
    made.listeners.close()
    until_in_thread(lambda: not [each for each in threading.enumerate() if each.name == "dpc-faces"])


@pytest.fixture
def screen(faces: Faces) -> Screen:
    return Screen(faces.listeners)


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def node(notebook: Notebook, asker_home: Home, engine: StubEngine) -> BackgroundNode:
    """The notebook's node, with a stub for an engine."""
    node = BackgroundNode(asker_home, name="bob", registry=Registry([engine], fresh_s=0.1))
    node.start()
    notebook._node = node
    return node


@pytest.fixture
def linked(node: BackgroundNode, stub_host: StubHost, screen: Screen) -> str:
    """The id of a host that the notebook's node is linked to, under the name of anna."""
    made: str = screen.call("connect", address=stub_host.uri, name="anna")["id"]
    return made
