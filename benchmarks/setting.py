"""Everyone who takes part in a run, started and linked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.measure import Sample
from benchmarks.peers import others
from benchmarks.peers.base import Asker
from benchmarks.peers.echo import EchoClient
from benchmarks.peers.http import HttpAsker
from benchmarks.peers.ours import OurAsker, let_in
from benchmarks.processes import Child, PeerUnavailableError, Processes
from dpc_jupyter.home import Home

OURS, IN_FRONT = "ours", "ours in front"
ECHO, FLOOR = "asyncio TLS echo", "uvloop TLS echo"
HTTP, NGINX, SSH, LITELLM = "direct HTTP", "nginx TLS", "ssh -L", "LiteLLM"
# One link has at most 64 requests open at a host, so the row with 256 streams needs four askers.
ASKERS = 4
IDLE_IDENTITIES = 16


@dataclass
class Setting:
    """The peers of a run.

    Attributes
    ----------
    askers : dict
        By the names above; one that is missing is told of in `skipped`.
    crowd : list of OurAsker
        `ASKERS` nodes, each with its own link to our host.
    quick : bool
        A few repetitions only: to see that it runs, not to measure.
    """

    processes: Processes
    console: Console
    quick: bool
    askers: dict[str, Asker] = field(default_factory=dict)
    crowd: list[OurAsker] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    engine_port: int = 0
    echo_port: int = 0
    asyncio_echo_client: Child | None = None
    host_pid: int = 0
    engine_pid: int = 0

    def folder(self, name: str) -> Path:
        """A home or other folder of this run."""
        return self.processes.folder / name

    def host(self, name: str, engine_url: str = "") -> tuple[Child, str]:
        """Start a host that lets in every asker of this run; returns it and its address."""
        askers = [self.node_id(f"asker{number}") for number in range(IDLE_IDENTITIES)]
        let_in(self.folder(name), askers)
        child = self.processes.module("peers.ours", "host", str(self.folder(name)), engine_url)
        return child, child.read()["uri"]

    def node_id(self, name: str) -> str:
        """The node of a home, made when it is first needed."""
        return Home(self.folder(name)).load_identity().node_id

    async def asyncio_echo(self, what: str, count: int) -> Sample:
        """Median of `count` round trips (``request``), or of connecting and one of them (``connect``), in µs."""
        if self.asyncio_echo_client is None:
            port = self.processes.module("peers.asyncio_echo", "serve", str(self.folder("echo.pem"))).read()["port"]
            self.asyncio_echo_client = self.processes.module("peers.asyncio_echo", "ask", str(port))
            self.asyncio_echo_client.read()
        found: Sample = await asyncio.to_thread(self.asyncio_echo_client.ask, {"what": what, "count": count})
        return found

    async def echo(self) -> EchoClient:
        """A connection to the floor."""
        return await EchoClient.connect(self.echo_port)

    @property
    def ours(self) -> OurAsker:
        """The asker of rows with one."""
        return self.crowd[0]

    async def close(self) -> None:
        """Let go of every connection; the processes end with `Processes`."""
        for asker in {id(each): each for each in [*self.askers.values(), *self.crowd]}.values():
            await asker.close()


async def prepare(processes: Processes, console: Console, wanted: set[str], *, quick: bool) -> Setting:
    """Start what `wanted` names, and warm it up."""
    setting = Setting(processes, console, quick)
    host, uri = setting.host("host")
    setting.host_pid = host.pid
    engine = processes.module("peers.http")
    setting.engine_pid, setting.engine_port = engine.pid, engine.read()["port"]
    pem = setting.folder("echo.pem")
    identity = setting.folder("host")
    pem.write_bytes((identity / "node.key").read_bytes() + (identity / "node.crt").read_bytes())
    setting.echo_port = processes.module("peers.echo", str(pem)).read()["port"]

    for number in range(ASKERS):
        setting.crowd.append(await OurAsker.linked(OURS, setting.folder(f"asker{number}"), uri))
    setting.askers[OURS] = setting.crowd[0]
    setting.askers[HTTP] = HttpAsker(HTTP, f"http://127.0.0.1:{setting.engine_port}/v1")
    if IN_FRONT in wanted:
        _, front = setting.host("front", f"http://127.0.0.1:{setting.engine_port}/v1")
        setting.askers[IN_FRONT] = await OurAsker.linked(IN_FRONT, setting.folder("asker5"), front)

    may_install = None if quick else console
    starts: dict[str, Callable[[], HttpAsker]] = {
        NGINX: lambda: others.nginx(processes, setting.engine_port, identity, may_install),
        SSH: lambda: others.ssh(processes, setting.engine_port, may_install),
        LITELLM: lambda: others.litellm(processes, setting.engine_port, may_install),
    }
    for name, start in starts.items():
        if name in wanted:
            try:
                setting.askers[name] = await asyncio.to_thread(start)
            except PeerUnavailableError as reason:
                setting.skipped[name] = str(reason)
    for name, asker in list(setting.askers.items()):
        try:
            for _ in range(3):
                async for _ in asker.ask(4):
                    pass
        except Exception as error:
            if name in (OURS, HTTP, IN_FRONT):
                raise
            setting.skipped[name] = f"it does not answer: {type(error).__name__}: {error}"
            await setting.askers.pop(name).close()
    return setting
