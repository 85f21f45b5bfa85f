"""A hostile relay, and hostile diallers that come through an honest one."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.peer import UNSENT_LIMIT_BYTES, Peer
from dpc_jupyter.node.reaching import relays as relays_module
from dpc_jupyter.node.reaching.relays import STREAMS_LIMIT
from dpc_jupyter.node.watch import WATCH_EVERY_S
from dpc_jupyter.protocol.messages import (
    Message,
    RelayClose,
    RelayCredit,
    RelayData,
    RelayOpen,
    RelayOpened,
    RelayPeer,
    RelayPeers,
)
from dpc_jupyter.transports.gate import HANDSHAKE_S
from dpc_jupyter.transports.relay import WINDOW_BYTES
from node.conftest import MakeNode
from node.inside import takes_of
from node.reaching.test_relays import Trio, trio
from node.stub import PIECE, StubEngine
from node.test_resume_under_fire import turns
from node.waiting import until

__all__ = ["trio"]  # a fixture

GARBAGE = base64.b64encode(b"\x16\x03\x01" + bytes(range(256)) * 4).decode()


def relay_id(number: int) -> str:
    return f"{number:032x}"


def link(of: CoreService, to: CoreService) -> Peer:
    return next(peer for peer in of._rooms.links.peers if peer.node_id == to.identity.node_id)


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def anna_is_well(trio: Trio) -> None:
    """Who is reached through the same relay still answers."""
    await trio.link()
    assert (await trio.pair.ask().complete()).text == PIECE * 4


async def test_a_thousand_opens_in_one_turn_are_bounded_as_those_one_by_one(trio: Trio) -> None:
    to_anna, before = link(trio.rita, trio.anna), open_files()
    most = 0
    for number in range(1000):
        to_anna.send(RelayOpen(relay_id(number), trio.anna.identity.node_id))
    for _ in range(200):
        await asyncio.sleep(0.001)
        most = max(most, open_files() - before)
        assert len(trio.anna._rooms.relays._ends) <= STREAMS_LIMIT
    assert most <= 2 * STREAMS_LIMIT + 4
    # None of them finishes TLS: the gate ends them.
    await until(lambda: not trio.anna._rooms.relays._ends, within_s=HANDSHAKE_S + 5)
    assert open_files() <= before + 4


async def test_ten_thousand_streams_that_open_and_close_leave_nothing_and_hold_up_nobody(
    trio: Trio, make_node: MakeNode
) -> None:
    trio.relay(sessions=4)
    await until(lambda: trio.via.relays)
    carol = await make_node("carol", StubEngine())
    trio.anna.access.allow(carol.identity.node_id, name="carol")
    trio.rita.access.allow(carol.identity.node_id, name="carol")
    await carol.connect(str(trio.rita.uri), name="rita")
    asked = 0
    async with turns(0.15):
        for number in range(10_000):
            trio.via.send(RelayOpen(relay_id(number), trio.anna.identity.node_id))
            trio.via.send(RelayClose(relay_id(number), "never mind"))
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: link(carol, trio.rita).relays)
        await carol.connect(trio.anna.identity.node_id)
        assert (await carol.send_ai_query("hello", trio.anna.identity.node_id)).text == PIECE * 4
        asked += 1
    assert asked == 1
    await until(lambda: len(trio.rita._rooms.relays._ways) <= 2 and len(trio.anna._rooms.relays._ends) <= 1)


_NONSENSE: dict[str, Callable[[str], Message]] = {
    "opened": RelayOpened,
    "credit beyond the window": lambda known: RelayCredit(known, 2**20),
    "data": lambda known: RelayData(known, GARBAGE),
    "no base64": lambda known: RelayData(known, "!!!!"),
    "no ASCII": lambda known: RelayData(known, "ÄÖÜß" * 8000),
    "half a group": lambda known: RelayData(known, "AAAAA"),
    "close": lambda known: RelayClose(known, "\x1b[31mred\n"),
    "open": lambda known: RelayOpen(known, "dpc-node-" + "0" * 32),
}


@pytest.mark.parametrize("what", _NONSENSE)
@pytest.mark.parametrize("where", ["at an end", "in the middle", "in nobody's stream", "behind its close"])
async def test_nonsense_ends_its_own_stream_at_most(trio: Trio, what: str, where: str) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    anna_id, known = trio.anna.identity.node_id, relay_id(7)
    speaker = link(trio.rita, trio.anna) if where == "at an end" else trio.via
    if where != "in nobody's stream":
        speaker.send(RelayOpen(known, anna_id))
        await until(lambda: trio.anna._rooms.relays._ends)
    if where == "behind its close":
        speaker.send(RelayClose(known, "enough"))
    for _ in range(50):
        speaker.send(_NONSENSE[what](known))
    await asyncio.sleep(0.05)
    assert not speaker.closed and len(trio.anna._rooms.relays._ends) <= 1 and len(trio.rita._rooms.relays._ways) <= 2
    speaker.send(RelayClose(known))
    await until(lambda: not trio.anna._rooms.relays._ends and not trio.rita._rooms.relays._ways)
    await anna_is_well(trio)


async def test_what_is_no_base64_is_not_counted_as_less_than_it_is_and_passed_on(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    trio.via.send(RelayOpen(relay_id(7), trio.anna.identity.node_id))
    await until(lambda: trio.anna._rooms.relays._ends)
    heard: list[Message] = []
    monkeypatch.setitem(takes_of(trio.anna), RelayData, lambda _, message: heard.append(message))
    trio.via.send(RelayData(relay_id(7), "ÄÖÜß" * 8000))
    await until(lambda: not trio.rita._rooms.relays._ways)
    await until(lambda: not trio.anna._rooms.relays._ends)
    assert not heard


async def test_what_speaks_for_another_links_stream_is_not_heard(trio: Trio, make_node: MakeNode) -> None:
    trio.relay()
    await anna_is_well(trio)
    eve = await make_node("eve")
    trio.rita.access.allow(eve.identity.node_id, name="eve")
    await eve.connect(str(trio.rita.uri), name="rita")
    theirs = link(eve, trio.rita)
    for peer, known in list(trio.rita._rooms.relays._ways):
        assert peer.node_id != eve.identity.node_id
        for message in (RelayData(known, GARBAGE), RelayCredit(known, 1), RelayOpened(known), RelayClose(known)):
            theirs.send(message)
    await asyncio.sleep(0.1)
    assert (await trio.pair.ask().complete()).text == PIECE * 4


@pytest.mark.parametrize("how", ["never finishes TLS", "sends garbage"])
async def test_a_hostile_dialler_through_a_relay_has_its_place_for_seconds(trio: Trio, how: str) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    before = open_files()
    for number in range(4):
        trio.via.send(RelayOpen(relay_id(number), trio.anna.identity.node_id))
    await until(lambda: len(trio.anna._rooms.relays._ends) == 4)
    if how == "sends garbage":
        for number in range(4):
            trio.via.send(RelayData(relay_id(number), GARBAGE))
    await until(lambda: not trio.anna._rooms.relays._ends, within_s=2 if how == "sends garbage" else HANDSHAKE_S + 5)
    await until(lambda: not trio.rita._rooms.relays._ways)
    assert open_files() <= before + 4
    await anna_is_well(trio)


async def test_a_relay_that_stops_reading_costs_its_own_streams_alone(trio: Trio, make_node: MakeNode) -> None:
    trio.relay()
    await trio.link()
    trio.engine.texts = ("x" * 10_000,) * 400
    carol = await make_node("carol")
    await trio.anna.listen("127.0.0.1", 0)
    trio.anna.access.allow(carol.identity.node_id, name="carol")
    await carol.connect(str(trio.anna.uri), name="anna")
    at_rita = link(trio.rita, trio.anna)
    at_rita._stream.pause_reading()
    stream = trio.pair.ask()
    to_rita = link(trio.anna, trio.rita)
    await until(lambda: not trio.pair.host_link.has_room)
    await asyncio.sleep(0.5)
    made = trio.engine.produced
    await asyncio.sleep(0.5)
    assert trio.engine.produced == made < 300, "the engine waits"
    assert to_rita._stream.unsent_bytes() < UNSENT_LIMIT_BYTES and not to_rita.closed
    trio.engine.texts = ()
    async with turns(0.1):
        assert (await carol.send_ai_query("hello", "anna")).text == PIECE * 4
    at_rita._stream.resume_reading()
    assert len((await stream.complete()).text) == 4_000_000


async def test_all_streams_of_a_link_whose_end_reads_nothing_fit_what_it_may_hold(
    trio: Trio, make_node: MakeNode
) -> None:
    assert (
        STREAMS_LIMIT * WINDOW_BYTES * 4 / 3 < UNSENT_LIMIT_BYTES
    )  # the kernel's buffers, which help, are not counted
    trio.relay(sessions=STREAMS_LIMIT)
    await until(lambda: trio.via.relays)
    link(trio.anna, trio.rita)._stream.pause_reading()
    to_anna = link(trio.rita, trio.anna)
    piece = base64.b64encode(bytes(24_000)).decode()
    for number in range(STREAMS_LIMIT):
        trio.via.send(RelayOpen(relay_id(number), trio.anna.identity.node_id))
        for _ in range(WINDOW_BYTES // 24_000):
            trio.via.send(RelayData(relay_id(number), piece))
        await asyncio.sleep(0.05)
    assert len(trio.rita._rooms.relays._ways) == 2 * STREAMS_LIMIT
    assert not to_anna.closed and to_anna._stream.unsent_bytes() < UNSENT_LIMIT_BYTES
    link(trio.anna, trio.rita)._stream.resume_reading()
    await until(lambda: not trio.rita._rooms.relays._ways, within_s=HANDSHAKE_S + 5)
    await anna_is_well(trio)


@pytest.mark.parametrize("for_ms", [30, 300])  # asker and host find each other again behind the flood, or within it
async def test_a_relay_that_floods_is_cut_off_by_the_window_or_waits(trio: Trio, for_ms: int) -> None:
    trio.relay()
    carried = await trio.link()
    trio.engine.hold()
    stream = await trio.pair.started()
    to_bob = link(trio.rita, trio.bob)
    ((_, known),) = trio.bob._rooms.relays._ends
    async with turns(0.1):
        for number in range(3000):
            to_bob.send(RelayData((known, relay_id(number))[number % 2], GARBAGE))
            if number % 100 == 0:
                await asyncio.sleep(for_ms / 30_000)
        await until(lambda: carried.closed)
    assert stream.answer.text == PIECE
    trio.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4


async def test_long_lists_of_nodes_count_by_their_length(trio: Trio) -> None:
    nodes = tuple(RelayPeer(f"dpc-node-{number:032x}", "x" * 128) for number in range(1024))
    to_bob = link(trio.rita, trio.bob)
    spent: list[float] = []
    spend = trio.bob._rooms.links.spend

    def look(peer: Peer, frames: float) -> float:
        spent.append(frames)
        return spend(peer, frames)

    trio.bob._rooms.links.spend = look  # type: ignore[method-assign]
    to_bob.send(RelayPeers(nodes))
    await until(lambda: len(trio.via.relays) == 1024)
    assert max(spent) > 100


async def test_whom_it_relays_is_worked_out_when_it_changes_alone(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    made: list[Any] = []
    monkeypatch.setattr(relays_module, "RelayPeer", lambda *words: made.append(words))
    for _ in range(100):
        trio.rita._rooms.relays.reconsider()
    assert not made


async def test_a_dialler_that_gives_up_at_any_moment_leaves_nothing(trio: Trio) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    before = open_files()
    for turn in range(30):
        dialling = asyncio.create_task(trio.bob._rooms.relays.dial(trio.via, trio.anna.identity.node_id, 5))
        for _ in range(turn):
            await asyncio.sleep(0)
        dialling.cancel()
        for sock in await asyncio.gather(dialling, return_exceptions=True):
            if not isinstance(sock, BaseException):
                sock.close()
    await until(
        lambda: not (trio.bob._rooms.relays._ends or trio.rita._rooms.relays._ways or trio.anna._rooms.relays._ends)
    )
    await until(lambda: open_files() <= before + 4)


async def test_one_that_comes_and_goes_is_told_of_now_and_then(
    trio: Trio, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.relay()
    await until(lambda: trio.via.relays)
    heard: list[RelayPeers] = []
    take = takes_of(trio.bob)[RelayPeers]

    def listen(peer: Peer, message: RelayPeers) -> None:
        heard.append(message)
        take(peer, message)

    monkeypatch.setitem(takes_of(trio.bob), RelayPeers, listen)
    carol = await make_node("carol")
    trio.rita.access.allow(carol.identity.node_id, name="carol")
    began = time.monotonic()
    for _ in range(30):
        await carol.connect(str(trio.rita.uri))
        await carol.disconnect(trio.rita.identity.node_id)
    await carol.connect(str(trio.rita.uri))
    await until(lambda: carol.identity.node_id in {each.node_id for each in trio.via.relays})
    assert len(heard) <= (time.monotonic() - began) / WATCH_EVERY_S + 2
