"""``dpc-jupyter demo``: a host in one process, a notebook in another, and an answer between them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from dpc_jupyter import firewall
from dpc_jupyter.backends.models import SMOLLM2
from dpc_jupyter.cli.console import out, say
from dpc_jupyter.cli.models import fetch_with_progress
from dpc_jupyter.errors import BackendError, ConfigError, DpcError
from dpc_jupyter.home import Home
from dpc_jupyter.sanitize import plain
from dpc_jupyter.wording import duration

NOTEBOOK = "01_quickstart.ipynb"
PRIVATE_MODEL = "smollm2:135m-private"
_HOST_START_S = 30.0
_CELL_LIMIT_S = 120


def demo(
    lab: Annotated[bool, typer.Option("--lab", help="Open JupyterLab beside two hosts instead, until Ctrl-C.")] = False,
    hub: Annotated[
        bool, typer.Option("--hub", help="Let a host that opens no port and an asker meet over a hub instead.")
    ] = False,
) -> None:
    """Run a host and the quickstart notebook on this machine, in ./.demo, and show what passed between them."""
    # Both end the host and JupyterLab too, even where a shell in the background has made us ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path.cwd() / ".demo"
    started = time.monotonic()
    place = prepare(folder)
    if hub:
        from dpc_jupyter.cli import demo_hub

        demo_hub.run(place)
        return
    with running_host(place) as uri:
        say(f"host up: {uri}")
        if lab:
            with running_host(place, place.second) as second:
                say(f"host up: {second}")
                _open_lab(place, {"DPC_DEMO_HOST": uri, "DPC_DEMO_HOST_2": second})
            return
        report = run_notebook(place, uri)
    _print(report, place, time.monotonic() - started)
    if report.failure:
        raise DpcError(report.failure)


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


@dataclass(frozen=True, slots=True)
class Report:
    """What the notebook's outputs say; `failure` is the sentence when that is not what the demo promises."""

    text: str
    facts: dict[str, Any]
    refusal: str
    host_id: str
    asker_id: str

    @property
    def failure(self) -> str:
        """Empty if a model of the host answered, and the other model was refused."""
        if not self.text.strip():
            return "The demo failed: the answer is empty."
        if self.facts.get("host") != self.host_id:
            return f"The demo failed: the answer came from {self.facts.get('host')}, not from the host."
        if not self.refusal:
            return f"The demo failed: {PRIVATE_MODEL} was not refused."
        return ""


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


def run_notebook(place: Place, uri: str) -> Report:
    """Run the quickstart with a real kernel, and write it down as it ran."""
    os.environ.update(place.asker_environment)
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError:
        raise ConfigError("The demo runs a notebook: in a checkout, pip install '.[notebook]'") from None
    notebook = nbformat.read(notebook_path(), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_CELL_LIMIT_S,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],  # it warns that loopback is not encrypted
        resources={"metadata": {"path": str(place.folder)}},
        on_cell_start=_say_cell,
    )
    say("starting the notebook's kernel")
    failure = ""
    try:
        client.execute(env={**os.environ, "DPC_DEMO_HOST": uri})
    except CellExecutionError as error:
        failure = f"The demo failed in a cell: {plain(error.evalue, 500)}"
    nbformat.write(notebook, place.folder / NOTEBOOK)
    if failure:
        raise DpcError(failure)
    return _report(notebook.cells, place)


def notebook_path() -> Path:
    """The quickstart: package data of an installed wheel, else the checkout's."""
    package = Path(__file__).parents[1]
    installed = package / "notebooks" / NOTEBOOK
    return installed if installed.exists() else package.parent / "notebooks" / NOTEBOOK


def _say_cell(cell: Any, cell_index: int) -> None:
    if cell.cell_type == "code":
        say(f"  [{cell_index}] {cell.source.strip().splitlines()[0][:100]}")


def _report(cells: list[Any], place: Place) -> Report:
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    answers = [output for output in outputs if "dpc" in output.get("metadata", {}) and output.metadata["dpc"]["model"]]
    answer = answers[0] if answers else None
    refusals = [output.evalue for output in outputs if output.output_type == "error" and output.ename == "AccessDenied"]
    return Report(
        text="" if answer is None else answer["data"]["text/plain"].rpartition("\n\n")[0],
        facts={} if answer is None else answer.metadata["dpc"],
        refusal=refusals[0] if refusals else "",
        host_id=place.host.load_identity().node_id,
        asker_id=place.asker.load_identity().node_id,
    )


def _print(report: Report, place: Place, took_s: float) -> None:
    timings = report.facts.get("timings", {})
    first_s, rate = timings.get("first_token_s"), timings.get("tokens_per_s")
    out.print()
    out.print(f"{report.facts.get('model')} on {report.facts.get('host_name')} answered:", markup=False, style="bold")
    out.print(plain(report.text).strip(), markup=False, style="cyan")
    out.print()
    facts = {
        "host": report.host_id,
        "notebook": report.asker_id,
        "first token": "none" if first_s is None else f"after {duration(first_s)}",
        "speed": "unknown" if rate is None else f"{rate:.0f} tokens a second",
        "refused": plain(report.refusal) or "nothing",
        "as it ran": str(place.folder / NOTEBOOK),
        "took": f"{took_s:.0f} s",
        "go on": "make lab" if Path("Makefile").exists() else "dpc-jupyter demo --lab",
    }
    for name, fact in facts.items():
        out.print(f"{name:<12}{fact}", markup=False)


def _open_lab(place: Place, addresses: dict[str, str]) -> None:
    folder = place.folder / "lab"
    folder.mkdir(exist_ok=True)
    for notebook in notebook_path().parent.glob("*.ipynb"):
        if not (folder / notebook.name).exists():  # what was written into one stays
            shutil.copy(notebook, folder)
    settings = Path(place.asker_environment["JUPYTER_CONFIG_DIR"]) / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    # Whether the user wants JupyterLab's news is not this demo's question to ask.
    settings.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={folder}", NOTEBOOK]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    token = secrets.token_urlsafe(24).replace("-", "").replace("_", "")
    environment = {**os.environ, **place.asker_environment, **addresses, "JUPYTER_TOKEN": token}
    say(f"JupyterLab: http://127.0.0.1:{port}/lab/tree/{NOTEBOOK}?token={token}")
    say("Ctrl-C ends it and the hosts.")
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as lab:
        try:
            if lab.wait() != 0:
                raise ConfigError("JupyterLab ended early. If it is missing: pip install jupyterlab")
        except KeyboardInterrupt:
            say("Stopping.")
        finally:
            end(lab)


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
        return
    process.kill()
