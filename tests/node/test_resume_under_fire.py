"""A peer that comes back too often, too greedily, or for what is not its own."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dpc_jupyter.errors import InvalidRequest, PeerLost
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.node.links.links import Links
from dpc_jupyter.node.links.peer import UNSENT_LIMIT_BYTES, Peer
from dpc_jupyter.node.serving import kept as kept_module
from dpc_jupyter.protocol.messages import (
    ChatMessage,
    Message,
    Ping,
    Pong,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceResume,
)
from dpc_jupyter.transports.tls import TlsStream
from node.conftest import MakeHome, MakeNode, MakePair, Pair
from node.inside import unreachable
from node.stub import PIECE, StubEngine
from node.waiting import until

HELLO = (ChatMessage("user", "hello"),)


class Bare:
    """A node without any manners: it only has links, and keeps what it hears."""

    def __init__(self, host: CoreService, home: Any, session: str) -> None:
        self.links = Links(home.load_identity(), "bare", session, self)
        self._uri = host.uri
        self.heard: list[Message] = []
        self.closed: list[str] = []

    async def link(self) -> Peer:
        assert isinstance(self._uri, PeerUri)
        peer = await self.links.connect(self._uri, 10)
        peer.asked = True
        return peer

    def responses(self) -> list[RemoteInferenceResponse]:
        return [each for each in self.heard if isinstance(each, RemoteInferenceResponse)]

    def text(self) -> str:
        return "".join(each.text for each in self.heard if isinstance(each, RemoteInferenceChunk))

    def is_known(self, node_id: str, /) -> bool:
        return True

    def legacy_ok(self, node_id: str, /) -> bool:
        return False

    def peer_opened(self, peer: Peer, /) -> None:
        pass

    def peer_silent(self, peer: Peer, /) -> None:
        pass

    def peer_said(self, peer: Peer, message: Any, /) -> None:
        if not isinstance(message, Ping | Pong):
            self.heard.append(message)

    def peer_replaced(self, older: Peer, newer: Peer, /) -> None: ...

    def peer_closed(self, peer: Peer, reason: str, /) -> None:
        self.closed.append(reason)


@asynccontextmanager
async def bare(pair: Pair, session: str) -> AsyncIterator[Bare]:
    node = Bare(pair.host, pair.asker.home, session)
    try:
        yield node
    finally:
        await node.links.close("the test is over")


@asynccontextmanager
async def turns(limit_s: float) -> AsyncIterator[None]:
    """No turn of the loop may take longer; the worst of three, because the machine has other work."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - before)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    late.sort()
    assert len(late) < 3 or late[-3] < limit_s, late[-5:]


async def test_ten_thousand_resumes_of_one_answer_cost_what_the_budget_of_frames_allows(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(texts=("x" * 1000,) * 300))
    async with bare(pair, "bare") as node:
        link = await node.link()
        link.send(RemoteInferenceRequest(request_id="r", messages=HELLO, stream=True))
        await until(node.responses)
        async with turns(0.1):
            for number in range(10_000):
                link.send(RemoteInferenceResume(("r", f"none-{number}")[number % 2], (0, 2**53)[number // 2 % 2]))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            # Meanwhile others are served.
            carol = asyncio.create_task(pair.ask().complete())
            answer = await carol
        assert len(answer.text) == 300_000
        assert len(pair.engine.seen) == 2
        assert len(pair.host._rooms.host._kept._kept_of[pair.asker_id]) == 2
        assert not pair.host._rooms.host._open


async def test_who_steals_an_answer_back_and_forth_between_two_links_gets_it_on_the_last(make_pair: MakePair) -> None:
    texts = tuple(f"{number} " for number in range(400))
    pair = await make_pair(StubEngine(texts=texts, pause_s=0.002))
    async with bare(pair, "one") as one, bare(pair, "two") as two:
        links = await one.link(), await two.link()
        links[0].send(RemoteInferenceRequest(request_id="r", messages=HELLO, stream=True))
        for number in range(200):
            links[number % 2].send(RemoteInferenceResume("r", 0))
            if number % 3 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        two.heard.clear()
        links[1].send(RemoteInferenceResume("r", 0))
        await until(lambda: two.responses() and two.responses()[-1].status == "success")
        assert two.text().endswith("".join(texts))
        assert len(pair.engine.seen) == 1 and not pair.host._rooms.host._open_of


async def test_an_engine_does_not_wait_for_a_link_that_its_asker_has_left(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(texts=("x" * 10_000,) * 2000))
    async with bare(pair, "one") as one, bare(pair, "two") as two:
        first, second = await one.link(), await two.link()
        first._stream.pause_reading()
        first.send(RemoteInferenceRequest(request_id="r", messages=HELLO, stream=True))
        at_host = next(peer for peer in pair.host._rooms.links.peers if peer.session == "one")
        await until(lambda: not at_host.has_room)
        await asyncio.sleep(0.1)
        stuck_at = pair.engine.produced
        second.send(RemoteInferenceResume("r", 0))
        await until(lambda: two.responses(), within_s=10)
        assert pair.engine.produced == 2000 > stuck_at and len(two.text()) == 20_000_000


async def test_who_comes_back_for_many_long_answers_at_once_gets_them_in_turns(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=40, texts=("x" * 30_000,) * 10), running=40, requests_per_minute=1000)
    pair.engine.hold(free=10)
    async with bare(pair, "one") as one, bare(pair, "two") as two:
        first, second = await one.link(), await two.link()
        for number in range(40):
            first.send(RemoteInferenceRequest(request_id=f"r{number}", messages=HELLO, stream=True))
        await until(lambda: pair.engine.produced == 400)
        at_host = next(peer for peer in pair.host._rooms.links.peers if peer.session == "two")
        most = 0

        def look(data: bytes, write: Callable[[bytes], bool] = at_host._stream.write) -> bool:
            nonlocal most
            most = max(most, len(data))
            return write(data)

        at_host._stream.write = look  # type: ignore[method-assign]
        for number in range(40):
            second.send(RemoteInferenceResume(f"r{number}", 0))
        await until(lambda: len(two.text()) == 40 * 300_000)
        assert most < UNSENT_LIMIT_BYTES / 4 and not two.closed
        pair.engine.gate.set()
        await until(lambda: len(two.responses()) == 40)


async def test_resuming_what_waits_in_line_tells_its_place_again(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1), running=1)
    pair.engine.hold()
    holder = await pair.started()
    async with bare(pair, "one") as one, bare(pair, "two") as two:
        first, second = await one.link(), await two.link()
        first.send(RemoteInferenceRequest(request_id="r", messages=HELLO, stream=True))
        await until(lambda: any(getattr(each, "state", "") == "queued" for each in one.heard))
        for _ in range(100):
            second.send(RemoteInferenceResume("r", 0))
        await until(lambda: any(getattr(each, "position", 0) == 1 for each in two.heard))
        pair.engine.gate.set()
        await until(two.responses)
        assert two.text() == PIECE * 4 and not one.text()
    await holder.complete()


async def test_a_kept_answer_outlives_a_cancel_that_comes_too_late(allowed: Pair) -> None:
    async with bare(allowed, "one") as one:
        link = await one.link()
        link.send(RemoteInferenceRequest(request_id="r", messages=HELLO, stream=True))
        await until(one.responses)
        one.heard.clear()
        link.send(RemoteInferenceCancel("r"))
        link.send(RemoteInferenceResume("r", 1))
        await until(one.responses)
        assert one.text() in (PIECE * 4, PIECE * 3, "")


@pytest.mark.parametrize("when", ["while it runs", "once it is over"])
async def test_an_id_that_is_used_again_for_another_question_is_refused(allowed: Pair, when: str) -> None:
    allowed.engine.hold()
    async with bare(allowed, "one") as one, bare(allowed, "two") as two:
        first, second = await one.link(), await two.link()
        first.send(RemoteInferenceRequest(request_id="r", messages=HELLO, stream=True))
        await until(one.text)
        if when == "once it is over":
            allowed.engine.gate.set()
            await until(one.responses)
        other = (ChatMessage("user", "something else"),)
        second.send(RemoteInferenceRequest(request_id="r", messages=other, stream=True))
        await until(two.responses)
        assert two.responses()[0].code == InvalidRequest.code and not two.text()
        allowed.engine.gate.set()
        await until(one.responses)
        assert one.responses()[0].status == "success" and one.text() == PIECE * 4
        assert len(allowed.engine.seen) == 1


async def test_all_answers_that_may_be_open_at_once_are_kept_for_an_asker_that_is_away(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await make_pair(StubEngine(slots=30), running=30, requests_per_minute=1000)
    pair.engine.hold()
    streams = [await pair.started() for _ in range(30)]

    with monkeypatch.context() as away:
        unreachable(pair.asker, away)
        pair.asker_link._stream.abort()
        await until(lambda: all(stream.away for stream in streams))
        pair.engine.gate.set()
        await until(lambda: not pair.host.status().serving)
    assert {(await stream.complete()).text for stream in streams} == {PIECE * 4}


async def test_what_is_kept_holds_no_link_and_no_more_memory_than_it_may(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(texts=("x",) * 2000), running=20, requests_per_minute=60_000)
    async with bare(pair, "one") as one:
        for number in range(kept_module.KEEP_LIMIT + 20):
            link = await one.link()
            link.send(RemoteInferenceRequest(request_id=f"r{number}", messages=HELLO, stream=True))
            await until(lambda: len(one.responses()) > number)  # noqa: B023
        kept = pair.host._rooms.host._kept._kept_of[pair.asker_id]
        assert len(kept) <= kept_module.KEEP_LIMIT
        assert sum(size for _, size, _ in kept.values()) <= kept_module.KEEP_LIMIT_BYTES
    await until(lambda: len(pair.host._rooms.links.peers) == 1)
    gc.collect()
    for _, _, serving in kept.values():
        stream = serving.peer._stream
        assert isinstance(stream, TlsStream) and stream._transport is None, "a link's TLS is let go of with the link"


async def test_a_request_that_broke_before_its_host_read_it_is_asked_again(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = allowed.asker_link
    monkeypatch.setattr(link._stream, "write", lambda _: True)  # the network swallows it
    stream = allowed.ask()
    await asyncio.sleep(0.05)
    assert not allowed.engine.seen
    link._stream.abort()
    assert (await stream.complete()).text == PIECE * 4
    assert len(allowed.engine.seen) == 1


async def test_a_host_that_comes_back_without_extensions_fails_the_request_by_name(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    resume = allowed.asker._rooms.requester.resume

    def plain(peer: Peer) -> None:
        peer.resumes, peer._connection.extended = False, False
        resume(peer)

    monkeypatch.setattr(allowed.asker._rooms.requester, "resume", plain)
    allowed.asker_link._stream.abort()
    with pytest.raises(PeerLost, match="cannot go on"):
        await stream.complete()


async def test_another_process_of_the_same_host_is_not_asked_for_what_it_never_had(
    allowed: Pair, make_node: MakeNode, make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    await allowed.asker.listen("127.0.0.1", 0)
    allowed.engine.hold()
    stream = await allowed.started()
    connect = allowed.asker._rooms.links.connect

    async def later(uri: PeerUri, timeout_s: float) -> Peer:
        await asyncio.sleep(0.5)
        return await connect(uri, timeout_s)

    monkeypatch.setattr(allowed.asker._rooms.links, "connect", later)
    allowed.asker_link._stream.abort()
    await until(lambda: stream.away)
    second = await make_node("anna's notebook", home=allowed.host.home)
    await second.connect(str(allowed.asker.uri))
    await until(lambda: any(not peer.outgoing for peer in allowed.asker._rooms.links.peers))
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
