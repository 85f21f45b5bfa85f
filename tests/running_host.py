"""A host in a process of its own: ``dpc-jupyter serve`` with the embedded model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dpc_jupyter import firewall
from dpc_jupyter.backends.models import SMOLLM2, fetch
from dpc_jupyter.home import Home

COMMAND = [sys.executable, "-m", "dpc_jupyter.cli"]
FORBIDDEN = "smollm2:135m-private"


def weights() -> Path:
    """The embedded model, fetched once and kept between test runs."""
    folder = Path(os.environ.get("DPC_TEST_MODELS") or Path(__file__).parents[1] / ".cache" / "models")
    return fetch(folder)


def write_providers(home: Home) -> None:
    """Two names for one file: a model to allow, and a model to forbid."""
    engine = {"type": "llama_cpp", "model": str(weights()), "context_window": 2048}
    entries = [
        {"alias": "embedded", "name": SMOLLM2.name, **engine},
        {"alias": "private", "name": FORBIDDEN, **engine},
    ]
    home.path.mkdir(0o700, exist_ok=True)
    (home.path / "providers.json").touch(0o600)
    (home.path / "providers.json").write_text(json.dumps({"providers": entries}))


def let_in(home: Home, node_id: str, name: str = "tester") -> None:
    """Sharing on, and this node in for the one model."""
    home.edit_access(lambda document: firewall.set_enabled(document, True))
    home.edit_access(lambda document: firewall.allow(document, node_id, name=name, models=[SMOLLM2.name]))


@dataclass(frozen=True)
class RunningHost:
    """A live ``dpc-jupyter serve``."""

    home: Home
    uri: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def node_id(self) -> str:
        return self.uri.rpartition("=")[2]


@contextmanager
def serving(home: Home, *options: str) -> Iterator[RunningHost]:
    """Start it on a free loopback port, or on none where it is told so, and end it by SIGTERM."""
    log = home.path / "serve.log"
    where = () if "--no-listen" in options else ("--listen", "127.0.0.1", "--port", "0")
    command = [*COMMAND, "serve", *where, "--name", "test-host", *options]
    environment = {**os.environ, "DPC_HOME": str(home.path)}
    home.path.mkdir(0o700, exist_ok=True)
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            uri = process.stdout.readline().strip()
            assert uri.startswith("dpc"), log.read_text()
            yield RunningHost(home, uri, process, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
