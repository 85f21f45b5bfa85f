"""Coming to a host that is not simply there: over a relay, after a cut, by the third of three addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from benchmarks.measure import Sample, interleave, percentile
from benchmarks.peers.ours import OurAsker, let_in
from benchmarks.peers.reach import let_relay
from benchmarks.rows import Row, row
from benchmarks.setting import OURS, Setting
from benchmarks.stub import now_ns
from benchmarks.timing import first_token_us, p50_us, rows_against
from dpc_jupyter.node.asking import AnswerStream
from dpc_jupyter.node.links import PeerUri

DIRECT, RELAYED = "direct TLS", "over a relay"
LIVE, DEAD = "the live path alone", "behind two dead paths"
_ASKER = "asker8"
_DOWN_S = 1.0


async def relay(setting: Setting) -> list[Row]:
    """The same question by a direct link, and through a third node that carries it."""
    homes = {name: setting.folder(name) for name in ("relay", "far")}
    asker_id, far_id = setting.node_id(_ASKER), setting.node_id("far")
    let_relay(homes["relay"], [asker_id, far_id])
    let_in(homes["far"], [asker_id])
    uri = setting.processes.module("peers.reach", "relay", str(homes["relay"])).read()["uri"]
    setting.processes.module("peers.reach", "far", str(homes["far"]), uri).read()
    relayed = await OurAsker.linked(RELAYED, setting.folder(_ASKER), uri)
    try:
        async with asyncio.timeout(10):
            while not any(peer.relays for peer in relayed.service._rooms.links.peers):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await relayed.service.connect(far_id)
        relayed._host = far_id
        count = 5 if setting.quick else 100
        found = await interleave(
            2 if setting.quick else 9,
            {DIRECT: lambda: first_token_us(setting.ours, count), RELAYED: lambda: first_token_us(relayed, count)},
        )
    finally:
        await relayed.close()
    return rows_against("relay: added time to first token", "µs", found, "p50", [(RELAYED, DIRECT, "<= 2.5")])


class _Wire:
    """A TCP proxy that can be cut: then it takes connections and drops them, as a NAT that has forgotten all does."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.up = True
        self.port = 0

    def cut(self) -> None:
        self.up = False
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, far_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._writers -= {writer, far_writer}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[_Wire]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.sleep(0.05)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort()


async def resume(setting: Setting) -> list[Row]:
    """From the moment that the network is back to the first new token, at 100 tokens a second."""
    _, uri = setting.host("resume-host")
    parsed = PeerUri.parse(uri)
    rows = []
    async with _Wire(parsed.port).open() as wire:
        proxied = str(PeerUri("127.0.0.1", wire.port, parsed.node_id))
        asker = await OurAsker.linked(OURS, setting.folder("asker9"), proxied)
        try:
            for name, down_s in (("a cut", 0.0), (f"a cut of {_DOWN_S:g} s", _DOWN_S)):
                taken = [await _back_ms(asker, wire, down_s) for _ in range(3 if setting.quick else 30)]
                for percent in (50, 99):
                    target = "<= 300" if percent == 50 else ""
                    metric = f"resume after {name}: link back to first new token, p{percent}"
                    rows.append(row(metric, "ms", percentile(taken, percent), target))
        finally:
            await asker.close()
    return rows


async def _back_ms(asker: OurAsker, wire: _Wire, down_s: float) -> float:
    stream = asker.query(2000, 100)
    reading = asyncio.ensure_future(_drain(stream))
    await _more(stream, 5)
    wire.cut()
    await asyncio.sleep(down_s)
    wire.up = True
    began, before = now_ns(), stream.pieces
    await _more(stream, before + 1)
    taken = (now_ns() - began) / 1e6
    stream.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return taken


async def _drain(stream: AnswerStream) -> None:
    async for _ in stream:
        pass


async def _more(stream: AnswerStream, pieces: int) -> None:
    async with asyncio.timeout(30):
        while stream.pieces < pieces:  # noqa: ASYNC110 - a fifth of a millisecond is nothing here
            await asyncio.sleep(0.0002)


async def ladder(setting: Setting) -> list[Row]:
    """Dead paths here take the connection and say nothing: that takes longer than one that is refused."""
    _, uri = setting.host("ladder-host")
    live = PeerUri.parse(uri)
    asker = await OurAsker.linked(OURS, setting.folder("asker10"), uri)
    with contextlib.ExitStack() as stack:
        dead = []
        for _ in range(2):
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            dead.append(PeerUri("127.0.0.1", sock.getsockname()[1], live.node_id))

        async def connect(uris: list[PeerUri]) -> Sample:
            asker.service.directory.uris_of = lambda node_id: uris  # type: ignore[method-assign]

            async def once() -> None:
                await asker.service.connect(live.node_id)

            return await p50_us(once, 2 if setting.quick else 10, before=asker.disconnect)

        try:
            found = await interleave(
                2 if setting.quick else 5, {LIVE: lambda: connect([live]), DEAD: lambda: connect([*dead, live])}
            )
        finally:
            await asker.close()
    added = [(late["p50"] - early["p50"]) / 1000 for late, early in zip(found[DEAD], found[LIVE], strict=True)]
    return [row("ladder: connect behind two dead paths, added", "ms", percentile(added, 50), "<= 500")]
