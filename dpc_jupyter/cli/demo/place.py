"""The demo's folder, and the processes that run in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dpc_jupyter import firewall
from dpc_jupyter.backends.models import SMOLLM2
from dpc_jupyter.cli.console import say
from dpc_jupyter.cli.models import fetch_with_progress
from dpc_jupyter.errors import BackendError
from dpc_jupyter.home import Home

PRIVATE_MODEL = "smollm2:135m-private"


@dataclass(frozen=True, slots=True)
class Place:
    """The demo's folder: homes as of several people, and the notebooks."""

    folder: Path
    host: Home
    asker: Home

    @property
    def second(self) -> Home:
        """Another host, for notebooks that compare two."""
        return Home(self.folder / "second-host")

    @property
    def asker_environment(self) -> dict[str, str]:
        """What keeps a kernel, or JupyterLab, from touching the user's own settings."""
        jupyter = self.folder / "jupyter"
        return {
            "DPC_HOME": str(self.asker.path),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
            "JUPYTER_DATA_DIR": str(jupyter / "data"),
            "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
        }


def prepare(folder: Path) -> Place:
    """Fresh homes and the model, which is kept between runs."""
    for name in ("host", "second-host", "asker", "ipython", "jupyter"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    weights = fetch_with_progress(folder / "models")
    say("making two identities")
    place = Place(folder, Home(folder / "host"), Home(folder / "asker"))
    asker_id = place.asker.load_identity().node_id
    engine = {"type": "llama_cpp", "model": str(weights), "context_window": SMOLLM2.context_window}
    open_to_all = {"alias": "embedded", "name": SMOLLM2.name, **engine}
    for host in (place.host, place.second):
        assert host.load_identity().node_id != asker_id
        host.edit_access(lambda document: firewall.set_enabled(document, True))
        host.edit_access(
            lambda document: firewall.allow(document, asker_id, name="demo-notebook", models=[SMOLLM2.name])
        )
        _write_providers(host, open_to_all, {"alias": "private", "name": PRIVATE_MODEL, **engine})
    _write_providers(place.asker, open_to_all)
    return place


def _write_providers(home: Home, *providers: dict[str, Any]) -> None:
    file = home.path / "providers.json"
    file.write_bytes(msgspec.json.encode({"providers": providers}))
    file.chmod(0o600)


@contextmanager
def running_host(place: Place, home: Home | None = None) -> Iterator[str]:
    """A host in a process of its own, as ``dpc-jupyter serve`` starts it; its address."""
    home = home or place.host
    log = place.folder / f"{home.path.name}.log"
    command = [sys.executable, "-m", "dpc_jupyter.cli", "serve", "--listen", "127.0.0.1", "--port", "0"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--name", f"demo-{home.path.name}"],
            env={**os.environ, "DPC_HOME": str(home.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to handle
        ) as host,
    ):
        try:
            assert host.stdout is not None
            uri = host.stdout.readline().strip()  # it prints its address, or ends
            if not uri.startswith("dpc://"):
                raise BackendError(f"The demo's host did not start; see {log}.")
            yield uri
        finally:
            end(host)


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
        return
    process.kill()
