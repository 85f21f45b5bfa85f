"""Reaching a host that only a third node is linked to."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest

from dpc_jupyter.errors import ConnectError, DpcError, PeerNotConnected
from dpc_jupyter.firewall import Document
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.reaching.relays import STREAMS_LIMIT, Relays
from dpc_jupyter.protocol.messages import Message, RelayClose, RelayData, RelayOpen
from dpc_jupyter.transports.relay import WINDOW_BYTES
from node.conftest import MakeNode, Pair
from node.inside import takes_of
from node.stub import PIECE, StubEngine
from node.waiting import until


class Trio:
    """Anna hosts and listens to nobody; she and bob, who asks, are linked to rita, who relays."""

    def __init__(self, anna: CoreService, bob: CoreService, rita: CoreService, engine: StubEngine) -> None:
        self.anna, self.bob, self.rita, self.engine = anna, bob, rita, engine
        self.pair = Pair(anna, bob, engine)

    def edit(self, change: Callable[[Document], Document]) -> None:
        self.rita.home.edit_access(change)
        self.rita.access.reload()
        self.rita._rooms.relays.reconsider()

    def relay(self, **section: Any) -> None:
        self.edit(lambda document: {**document, "relay": {"enabled": True, **section}})

    @property
    def via(self) -> Peer:
        return next(p for p in self.bob._rooms.links.peers if p.node_id == self.rita.identity.node_id)

    async def link(self) -> Peer:
        await until(lambda: self.via.relays)
        await self.bob.connect(self.anna.identity.node_id)
        link = self.pair.asker_link
        await until(lambda: link.offers)
        return link


@pytest.fixture
async def trio(make_node: MakeNode) -> Trio:
    engine = StubEngine()
    rita = await make_node("rita", listen=True)
    anna, bob = await make_node("anna", engine), await make_node("bob")
    rita.access.set_sharing(True)
    for node in (anna, bob):
        rita.access.allow(node.identity.node_id, name=node.name)
        await node.connect(str(rita.uri), name="rita")
    anna.access.allow(bob.identity.node_id, name="bob")
    anna.access.set_sharing(True)
    return Trio(anna, bob, rita, engine)


async def test_a_host_behind_a_mutual_peer_answers_and_the_relay_reads_nothing(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    pass_on = Relays._pass_on

    def look(self: Relays, way: Any, message: Any) -> None:
        if isinstance(message, RelayData):
            seen.append(base64.b64decode(message.data))
        pass_on(self, way, message)

    monkeypatch.setattr(Relays, "_pass_on", look)
    trio.relay()
    link = await trio.link()
    assert (link.kind, link.hops) == ("relay", (trio.rita.identity.node_id,))
    answer = await trio.pair.ask("a secret question").complete()
    assert answer.text == PIECE * 4
    (generation,) = trio.engine.seen
    assert generation.messages[-1].content == "a secret question"
    carried = b"".join(seen)
    assert len(carried) > 2000 and b"secret" not in carried and PIECE.encode() not in carried
    assert trio.anna.status().peers[-1].kind == "relay"


async def test_a_long_answer_through_a_relay_is_byte_identical(trio: Trio) -> None:
    texts = tuple(f"{number} " * 100 for number in range(4000))
    trio.engine.texts = texts
    trio.relay()
    await trio.link()
    assert (await trio.pair.ask().complete()).text == "".join(texts)


async def test_nobody_is_relayed_until_the_owner_says_so(trio: Trio) -> None:
    await asyncio.sleep(0.1)
    assert not trio.via.relays
    with pytest.raises(PeerNotConnected, match="No way"):
        await trio.bob.connect(trio.anna.identity.node_id)
    with pytest.raises(ConnectError, match="does not relay you"):
        await trio.bob._rooms.relays.dial(trio.via, trio.anna.identity.node_id, 5)


async def test_both_ends_must_be_allowed(trio: Trio) -> None:
    for listed in (trio.anna, trio.bob):
        trio.relay(allow_nodes=[listed.identity.node_id])
        with pytest.raises(ConnectError, match="does not relay you"):
            await trio.bob._rooms.relays.dial(trio.via, trio.anna.identity.node_id, 5)
        assert not trio.via.relays
    trio.relay(allow_nodes=[node.identity.node_id for node in (trio.anna, trio.bob)])
    await trio.link()


async def test_a_permission_that_is_withdrawn_ends_what_is_carried(trio: Trio) -> None:
    trio.relay()
    await trio.link()
    trio.engine.hold()
    stream = await trio.pair.started()
    trio.rita.home.edit_access(lambda document: {**document, "relay": {"enabled": False}})
    await until(lambda: stream.away or stream.done, within_s=1)
    assert not trio.rita._rooms.relays._ways
    await until(lambda: not trio.via.relays)
    stream.cancel()


async def test_streams_of_a_node_are_bounded(trio: Trio) -> None:
    trio.relay(sessions=2)
    await until(lambda: trio.via.relays)
    target = trio.anna.identity.node_id
    socks = [await trio.bob._rooms.relays.dial(trio.via, target, 5) for _ in range(2)]
    with pytest.raises(ConnectError, match="does not relay you"):
        await trio.bob._rooms.relays.dial(trio.via, target, 5)
    for sock in socks:
        sock.close()
    await until(lambda: not trio.rita._rooms.relays._ways)
    await trio.link()


async def test_bytes_of_a_node_are_bounded(trio: Trio) -> None:
    trio.engine.texts = ("x" * 10_000,) * 400
    trio.relay(megabytes_per_day=1)
    await trio.link()
    stream = trio.pair.ask()
    await until(lambda: stream.status is not None and "does not relay you" in stream.status.note)
    assert 100_000 < len(stream.answer.text) < 2**20 and not trio.rita._rooms.relays._ways
    stream.cancel()


async def test_a_relay_that_stays_away_is_told_by_name_and_the_partial_text_stays(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.COME_BACK_S", 1.0)
    trio.relay()
    await trio.link()
    trio.engine.hold()
    stream = await trio.pair.started()
    await trio.rita.stop()
    with pytest.raises(DpcError, match="anna was lost"):
        await stream.complete()
    assert stream.answer.text == PIECE


async def test_an_answer_goes_on_when_its_relay_is_started_again(
    trio: Trio, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.RECONNECT_FIRST_S", 0.1)
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.RECONNECT_LAST_S", 0.3)
    trio.relay()
    await trio.link()
    trio.engine.hold()
    stream = await trio.pair.started()
    uri = trio.rita.uri
    assert uri is not None
    await trio.rita.stop()
    await until(lambda: stream.away)
    again = await make_node("rita", home=trio.rita.home)
    await again.listen("127.0.0.1", uri.port)
    await until(lambda: not stream.away)
    trio.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert len(trio.engine.seen) == 1


@pytest.mark.parametrize("how", ["drops", "reorders", "replays", "injects", "changes"])
async def test_what_a_hostile_relay_does_to_the_stream_is_detected_and_nothing_of_it_is_accepted(
    trio: Trio, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    texts = tuple(f"<{number}>" for number in range(200))
    trio.engine.texts, trio.engine.pause_s = texts, 0.005
    trio.relay()
    await trio.link()
    to_bob = next(p for p in trio.rita._rooms.links.peers if p.node_id == trio.bob.identity.node_id)
    send, held = to_bob.send, list[RelayData]()

    def meddle(message: Message) -> None:
        if not isinstance(message, RelayData) or len(trio.engine.seen) == 0 or trio.engine.produced < 20:
            send(message)
        elif how == "drops" and not held:
            held.append(message)
        elif how == "reorders" and len(held) < 2:
            held.append(message)
            for late in reversed(held) if len(held) == 2 else ():
                send(late)
        elif how == "replays" and not held:
            held.append(message)
            send(message)
            send(message)
        elif how == "injects" and not held:
            held.append(message)
            send(RelayData(message.relay_id, base64.b64encode(b"\x17\x03\x03\x00\x20" + b"y" * 32).decode()))
            send(message)
        elif how == "changes" and not held:
            held.append(message)
            data = bytearray(base64.b64decode(message.data))
            data[-1] ^= 1
            send(RelayData(message.relay_id, base64.b64encode(data).decode()))
        else:
            send(message)

    monkeypatch.setattr(to_bob, "send", meddle)
    trio.bob.directory._known.clear()
    stream = trio.pair.ask()
    await until(lambda: held and (stream.away or stream.done))
    whole = "".join(texts)
    assert whole.startswith(stream.answer.text) and stream.answer.text != whole
    # The link is made anew, through the same relay, which is tired of it: the answer is whole all the same.
    assert (await stream.complete()).text == whole


async def test_what_comes_over_the_window_ends_the_stream(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    sock = await trio.bob._rooms.relays.dial(trio.via, trio.anna.identity.node_id, 5)
    ((_, relay_id),) = trio.bob._rooms.relays._ends
    seen: list[Message] = []
    monkeypatch.setitem(takes_of(trio.bob), RelayClose, lambda _, message: seen.append(message))
    piece = base64.b64encode(bytes(24_000)).decode()
    for _ in range(WINDOW_BYTES // 24_000 + 2):
        trio.via.send(RelayData(relay_id, piece))
    await until(lambda: any(isinstance(message, RelayClose) for message in seen))
    await until(lambda: not trio.rita._rooms.relays._ways)
    sock.close()


async def test_loops_and_more_than_three_hops_are_refused(trio: Trio) -> None:
    trio.relay()
    for target in (trio.rita.identity.node_id, trio.bob.identity.node_id):
        with pytest.raises(ConnectError, match="no loop"):
            await trio.bob._rooms.relays.dial(trio.via, target, 5)
    link = await trio.link()
    with pytest.raises(ConnectError, match="no loop"):
        await trio.bob._rooms.relays.dial(link, trio.rita.identity.node_id, 5)


async def test_two_relays_in_a_row(trio: Trio, make_node: MakeNode) -> None:
    """Bob, over rita, over rosa, to carol: each hop is a stream inside a stream."""
    trio.relay()
    await trio.link()  # bob to anna over rita; now anna relays him to carol
    carol = await make_node("carol", StubEngine())
    await trio.anna.listen("127.0.0.1", 0)
    trio.anna.access.allow(carol.identity.node_id, name="carol")
    await carol.connect(str(trio.anna.uri), name="anna")
    carol.access.allow(trio.bob.identity.node_id, name="bob")
    carol.access.set_sharing(True)
    trio.anna.home.edit_access(lambda document: {**document, "relay": {"enabled": True}})
    await until(lambda: any(peer.relays for peer in trio.bob._rooms.links.peers if peer.hops))
    status = await trio.bob.connect(carol.identity.node_id)
    assert (await trio.bob.send_ai_query("hello", status.node_id)).text == PIECE * 4
    (link,) = [peer for peer in trio.bob._rooms.links.peers if peer.node_id == carol.identity.node_id]
    assert link.hops == (trio.anna.identity.node_id, trio.rita.identity.node_id)


async def test_a_stranger_is_brought_to_nobody(trio: Trio, make_node: MakeNode) -> None:
    trio.relay()
    eve = await make_node("eve")
    await eve.connect(str(trio.rita.uri), name="rita")
    (link,) = eve._rooms.links.peers
    with pytest.raises(ConnectError, match="does not relay you"):
        await eve._rooms.relays.dial(link, trio.anna.identity.node_id, 5)
    assert not link.relays


async def test_streams_to_one_end_are_bounded(trio: Trio) -> None:
    trio.relay(sessions=64)
    await until(lambda: trio.via.relays)
    for number in range(STREAMS_LIMIT + 4):
        trio.via.send(RelayOpen(f"{number:032x}", trio.anna.identity.node_id))
    await asyncio.sleep(0.3)
    assert (
        len(trio.anna._rooms.relays._ends) <= STREAMS_LIMIT and len(trio.rita._rooms.relays._ways) <= 2 * STREAMS_LIMIT
    )
