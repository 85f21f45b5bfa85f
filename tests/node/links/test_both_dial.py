"""Two nodes that dial each other at the same moment."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links import links
from node.conftest import MakeNode
from node.stub import PIECE, StubEngine
from node.waiting import until

Two = tuple[CoreService, CoreService]


@pytest.fixture
def engine() -> StubEngine:
    """Bob's."""
    return StubEngine()


@pytest.fixture
async def both(make_node: MakeNode, engine: StubEngine) -> Two:
    """Each hosts, and lets the other in."""
    anna = await make_node("anna", StubEngine(), listen=True)
    bob = await make_node("bob", engine, listen=True)
    for host, asker in ((anna, bob), (bob, anna)):
        host.access.allow(asker.identity.node_id, name=asker.name)
        host.access.set_sharing(True)
    return anna, bob


def links_of(node: CoreService) -> list[bool]:
    return [peer.outgoing for peer in node._rooms.links.peers]


async def test_one_link_stays_and_both_ask_over_it(both: Two) -> None:
    anna, bob = both
    kept = anna.identity.node_id < bob.identity.node_id
    for _ in range(20):
        dialled = await asyncio.gather(
            anna.connect(str(bob.uri)), bob.connect(str(anna.uri)), anna.connect(str(bob.uri))
        )
        assert all(link.dialled for link in dialled), "whoever dialled has what it dialled for"
        answers = await asyncio.gather(
            *(anna.send_ai_query("hello", bob.identity.node_id) for _ in range(3)),
            *(bob.send_ai_query("hello", anna.identity.node_id) for _ in range(3)),
        )
        assert [answer.text for answer in answers] == [PIECE * 4] * 6
        await until(lambda: (links_of(anna), links_of(bob)) == ([kept], [not kept]))
        before = {*anna._rooms.links.peers, *bob._rooms.links.peers}
        await asyncio.sleep(0.02)
        assert before == {*anna._rooms.links.peers, *bob._rooms.links.peers}, "it is stable"
        await anna.disconnect(bob.identity.node_id)
        await until(lambda: not (anna.peers() or bob.peers()))


async def test_a_request_that_is_open_goes_on_over_the_link_that_stays(both: Two, engine: StubEngine) -> None:
    anna, bob = both
    for first, second in ((anna, bob), (bob, anna)):
        engine.hold()
        await first.connect(str(second.uri))
        await until(lambda: all(peer.offers for node in both for peer in node._rooms.links.peers))
        stream = anna.execute_ai_query("hello", bob.identity.node_id)
        await until(lambda: stream.answer.text)  # noqa: B023
        await second.connect(str(first.uri))
        await until(lambda: len(links_of(anna)) == len(links_of(bob)) == 1)
        engine.gate.set()
        assert (await stream.complete()).text == PIECE * 4
        await anna.disconnect(bob.identity.node_id)
        await until(lambda: not (anna.peers() or bob.peers()))
    assert len(engine.seen) == 2


async def test_who_dialled_us_as_a_stranger_and_is_dialled_by_us_is_none_any_more(make_node: MakeNode) -> None:
    nodes = [await make_node(name, StubEngine(), listen=True) for name in ("anna", "bob")]
    host, asker = sorted(nodes, key=lambda node: node.identity.node_id)  # so that the host's link is the one that stays
    host.access.allow(asker.identity.node_id)
    host.access.set_sharing(True)
    await host.connect(str(asker.uri))
    (link,) = asker._rooms.links.peers
    strangers = [link.stranger]
    await asyncio.sleep(0.05)  # it says what it offers, which is not heard
    await asker.connect(str(host.uri))
    strangers.append(link.stranger)
    assert asker._rooms.links.peers == [link] and strangers == [True, False]
    await until(lambda: link.offers)


async def test_an_old_link_makes_room_whoever_dials_anew(both: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_AT_ONCE_S", -1.0)
    anna, bob = both
    for first, second in ((anna, bob), (bob, anna)):
        await first.connect(str(second.uri))
        await second.connect(str(first.uri))
        await until(lambda: (links_of(first), links_of(second)) == ([False], [True]))  # noqa: B023
        await anna.disconnect(bob.identity.node_id)
        await until(lambda: not (anna.peers() or bob.peers()))


async def test_a_peer_that_cannot_go_on_over_another_link_keeps_both(both: Two) -> None:
    anna, bob = both
    for node in both:
        node._rooms.links._ext = replace(node._rooms.links._ext, resume=False)
    await anna.connect(str(bob.uri))
    await bob.connect(str(anna.uri))
    await until(lambda: (links_of(anna), links_of(bob)) == ([True, False], [False, True]))
