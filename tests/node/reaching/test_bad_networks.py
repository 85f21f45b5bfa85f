"""Answers over TLS through a network that delays, hands over byte by byte, loses, and breaks."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from dpc_jupyter.errors import ConnectError, HandshakeError, NobodyListens
from dpc_jupyter.node.asking.answer import AnswerStream
from dpc_jupyter.node.links.address import PeerUri
from node.conftest import MakeNode
from node.stub import StubEngine
from node.waiting import until


class BadWire:
    """A TCP proxy. What TCP loses comes late, and everything behind it too."""

    def __init__(self, port: int, chance: random.Random, *, delay_s: float, loss: float, cut_after_bytes: int) -> None:
        self._to = port
        self._chance = chance
        self._delay_s, self._loss, self._cut_after_bytes = delay_s, loss, cut_after_bytes
        self._left = self._next_cut()
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = self.carried = 0
        self.port = 0

    def _next_cut(self) -> int:
        return self._chance.randrange(self._cut_after_bytes // 4, self._cut_after_bytes * 2)

    def cut(self) -> None:
        self.cuts += 1
        self._left = self._next_cut()
        for writer in self._writers:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        both = {writer, far_writer}
        self._writers |= both
        try:
            carrying = self._carry(reader, far_writer), self._carry(far_reader, writer)
            ends = await asyncio.gather(*carrying, return_exceptions=True)
            assert not [end for end in ends if end is not None and not isinstance(end, OSError)], ends
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        on_its_way: deque[tuple[float, bytes]] = deque()
        more = asyncio.Event()

        async def deliver() -> None:
            while True:
                while not on_its_way:
                    more.clear()
                    await more.wait()
                due, data = on_its_way.popleft()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.transport.abort()
                    return
                for index in range(len(data)):
                    if writer.transport.is_closing():  # cut
                        return
                    writer.write(data[index : index + 1])
                    if index % 64 == 63:
                        await asyncio.sleep(0)
                self.carried += len(data)
                self._left -= len(data)
                if self._left < 0:
                    self.cut()
                    return

        delivering = asyncio.create_task(deliver())
        due = 0.0
        try:
            while not delivering.done():
                data = await reader.read(1400)
                late = self._delay_s * (3 if self._chance.random() < self._loss else 1)
                due = max(due, loop.time() + late)
                on_its_way.append((due, data))
                more.set()
                if not data:
                    break
            await delivering
        finally:
            delivering.cancel()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BadWire]:
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self.accept(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.05)


async def test_100_of_100_answers_come_whole_through_a_network_that_delays_splits_loses_and_breaks(
    make_node: MakeNode,
) -> None:
    chance = random.Random(20261123)
    texts = tuple(f"{number}é " for number in range(60))
    engine = StubEngine(slots=50, texts=texts, pause_s=0.03)
    host, asker = await make_node("anna", engine, listen=True), await make_node("bob")
    limits = ("running=50", "queued=100", "requests_per_minute=1000")
    host.access.allow(asker.identity.node_id, limits=limits)
    host.access.set_sharing(True)
    assert host.uri is not None
    wire = BadWire(host.uri.port, chance, delay_s=0.2, loss=0.05, cut_after_bytes=80_000)
    async with wire.open():
        uri = PeerUri("127.0.0.1", wire.port, host.identity.node_id)
        await asker.connect(str(uri), name="anna")
        answers = []
        for _ in range(2):
            streams: list[AnswerStream] = []
            while len(streams) < 50:
                with suppress(ConnectError):
                    if not asker.peers():
                        await asker.connect("anna")
                    streams.append(asker.execute_ai_query(f"question {len(streams)}", "anna"))
                await asyncio.sleep(0.002)
            answers += await asyncio.gather(*(stream.complete() for stream in streams))
        assert [answer.text for answer in answers] == ["".join(texts)] * 100
        assert wire.cuts >= 3 and len(engine.seen) == 100
        await until(lambda: [row.outcome for row in host.ledger.rows()] == ["ok"] * 100)


@pytest.mark.parametrize("whose", ["the network", "the host"])
async def test_a_link_that_breaks_while_it_is_made_is_tried_again_and_a_refusal_is_not(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    host, asker = await make_node("anna", listen=True), await make_node("bob")
    links = host._rooms.links
    if whose == "the network":
        monkeypatch.setattr(links, "peer_authenticated", lambda peer: peer.abort("the test cuts it"))
    else:
        monkeypatch.setattr(links, "_no_place_for", lambda peer: "No place for you.")
    with pytest.raises(ConnectError if whose == "the network" else HandshakeError):
        await asker.connect(str(host.uri))


async def test_a_host_that_has_ended_is_known_to_have_at_all_of_its_addresses(make_node: MakeNode) -> None:
    host, asker = await make_node("anna"), await make_node("bob")
    for port in (1, 2):
        uri = PeerUri("127.0.0.1", port, host.identity.node_id)
        asker.directory.remember(host.identity.node_id, uri, "anna", "anna")
    with pytest.raises(NobodyListens):
        await asker.connect("anna")
