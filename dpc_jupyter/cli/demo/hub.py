"""``dpc-jupyter demo --hub``: a host that opens no port, an asker elsewhere, and a hub that only introduces them."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpc_jupyter import identity
from dpc_jupyter.cli.console import out, say
from dpc_jupyter.cli.demo.place import Place, end
from dpc_jupyter.errors import BackendError, DpcError
from dpc_jupyter.hub.client.trust import Trust
from dpc_jupyter.node.reaching import HUB_VARIABLE, set_hub
from dpc_jupyter.sanitize import plain

HOST_NAME = "anna"
QUESTION = "Why is the sky blue? One sentence."
_ONLINE_S, _ANSWER_S = 30.0, 60.0
_NETWORK = "10.213.77"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a process runs: what goes before its command, and its address there."""

    before: tuple[str, ...] = ()
    address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Met:
    """How the asker reached the host, and what it answered; `failure` is the sentence when that was not by WebRTC."""

    told: str
    text: str
    status: int

    @property
    def failure(self) -> str:
        """Empty if a model answered over WebRTC."""
        if self.status != 0 or not self.text.strip():
            return f"The demo failed: {plain(self.told).strip() or 'the answer is empty'}"
        return "" if f"Reached {HOST_NAME} by WebRTC." in self.told else "The demo failed: they met by another way."


def run(place: Place) -> None:
    """Bring a host and an asker together, and print by which way, and the answer.

    Raises
    ------
    DpcError
        They did not meet by WebRTC, or nothing was answered.
    """
    started = time.monotonic()
    with ExitStack() as running:
        hub, host, asker = running.enter_context(_sites())
        url = running.enter_context(_hub(place, hub))
        node_id = running.enter_context(_host(place, host, url))
        say(f"host up, without a port: {node_id}")
        stale = f"dpc://{host.address}:{_free_port()}?node_id={node_id}"
        place.asker.edit_peers(lambda _: {node_id: {"name": HOST_NAME, "uri": stale, "last_seen": 0}})
        met = _ask(place, asker)
    if met.failure:
        raise DpcError(met.failure)
    out.print(plain(met.told).strip(), markup=False)
    out.print(f"\n{HOST_NAME} answered:", markup=False, style="bold")
    out.print(plain(met.text).strip(), markup=False, style="cyan")
    out.print(f"\ntook        {time.monotonic() - started:.0f} s", markup=False)


@contextmanager
def _sites() -> Iterator[tuple[Site, Site, Site]]:
    """Hub, host and asker: each in a network of its own where this machine allows, else all of them here."""
    with ExitStack() as made:
        try:
            sites = made.enter_context(_namespaces())
            say("hub, host and asker run in network namespaces of their own, joined by a bridge")
        except (OSError, subprocess.CalledProcessError) as error:
            why = "needs root" if isinstance(error, PermissionError) else "`ip` cannot make them here"
            say(f"all run in this machine's one network (namespaces: {why}); the host listens on no port all the same")
            sites = (Site(), Site(), Site())
        yield sites


@contextmanager
def _namespaces() -> Iterator[tuple[Site, Site, Site]]:
    if not (hasattr(os, "geteuid") and os.geteuid() == 0):
        raise PermissionError
    hub, *others = (f"dpc-demo-{os.getpid()}-{name}" for name in ("hub", "host", "asker"))
    with ExitStack() as undo:
        for name in (hub, *others):
            _ip("netns", "add", name)
            undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "lab", "type", "bridge")
        _ip("-n", hub, "address", "add", f"{_NETWORK}.1/24", "dev", "lab")
        _ip("-n", hub, "link", "set", "lab", "up")
        for number, name in enumerate(others, 2):
            _ip("-n", hub, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", f"port{number}", "master", "lab", "up")
            _ip("-n", name, "address", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        names = enumerate((hub, *others), 1)
        first, second, third = (Site(("ip", "netns", "exec", name), f"{_NETWORK}.{number}") for number, name in names)
        yield first, second, third


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S607


@contextmanager
def _hub(place: Place, site: Site) -> Iterator[str]:
    """A hub, with a certificate of its own where others dial it over a network; its URL."""
    folder, port = place.folder / "hub", _free_port()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(0o700)
    words, trust, scheme = ["--host", site.address, "--port", str(port)], Trust(), "http"
    if site.before:
        own = identity.generate()
        for name, pem in (("hub.crt", own.cert_pem), ("hub.key", own.key_pem)):
            (folder / name).touch(0o600)
            (folder / name).write_bytes(pem)
        words += ["--tls-cert", str(folder / "hub.crt"), "--tls-key", str(folder / "hub.key")]
        trust, scheme = Trust(fingerprint=hashlib.sha256(own.cert_der).hexdigest()), "https"
    url = f"{scheme}://{site.address}:{port}"
    for home in (place.host, place.asker):
        set_hub(home, url, trust)
    with _running(place, site, folder, "hub", *words):
        say(f"hub up: {url}")
        yield url


@contextmanager
def _host(place: Place, site: Site, url: str) -> Iterator[str]:
    """A host that is online there; its node id."""
    with _running(place, site, place.host.path, "serve", "--no-listen", "--name", HOST_NAME) as (process, log):
        until = time.monotonic() + _ONLINE_S
        while f"This node is online at {url}" not in log.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise BackendError(f"The demo's host is not online; see {log} and {place.folder / 'hub.log'}.")
            time.sleep(0.05)
        yield place.host.load_identity().node_id


def _ask(place: Place, site: Site) -> Met:
    words = ["ask", "--host", HOST_NAME, "--max-tokens", "60", "--temperature", "0", QUESTION]
    try:
        done = subprocess.run(
            _command(site, *words),
            env=_environment(place.asker.path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Met(f"nothing was answered within {_ANSWER_S:g} s.", "", 1)
    return Met(done.stderr, done.stdout, done.returncode)


@contextmanager
def _running(place: Place, site: Site, home: Path, *words: str) -> Iterator[tuple[subprocess.Popen[Any], Path]]:
    log = place.folder / f"{home.name}.log"
    with (
        log.open("w") as told,
        subprocess.Popen(
            _command(site, *words),
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,  # Ctrl-C is ours to handle
        ) as process,
    ):
        try:
            yield process, log
        finally:
            end(process)


def _command(site: Site, *words: str) -> list[str]:
    return [*site.before, sys.executable, "-m", "dpc_jupyter.cli", *words]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DPC_HOME": str(home), HUB_VARIABLE: ""}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
