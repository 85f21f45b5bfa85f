"""Two nodes that dial each other at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from dpc_jupyter.node.core_service import CoreService
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


def outgoing(node: CoreService) -> list[bool]:
    return sorted(peer.outgoing for peer in node._links.peers)


async def test_each_keeps_the_link_that_it_dialled_and_asks_over_it(both: Two) -> None:
    anna, bob = both
    for _ in range(20):
        await asyncio.gather(anna.connect(str(bob.uri)), bob.connect(str(anna.uri)), anna.connect(str(bob.uri)))
        answers = await asyncio.gather(
            *(anna.send_ai_query("hello", bob.identity.node_id) for _ in range(3)),
            *(bob.send_ai_query("hello", anna.identity.node_id) for _ in range(3)),
        )
        assert [answer.text for answer in answers] == [PIECE * 4] * 6
        await until(lambda: outgoing(anna) == outgoing(bob) == [False, True])
        before = {*anna._links.peers, *bob._links.peers}
        await asyncio.sleep(0.02)
        assert before == {*anna._links.peers, *bob._links.peers}, "both are stable"
        for asker, host in (both, both[::-1]):
            await until(lambda: all(peer.offers for peer in asker._links.peers))  # noqa: B023
            link = asker._links.of(host.identity.node_id)
            assert link is not None and link.outgoing
        await anna.disconnect(bob.identity.node_id)
        await until(lambda: not (anna.peers() or bob.peers()))


async def test_a_request_goes_on_over_the_other_link_when_its_own_breaks(both: Two, engine: StubEngine) -> None:
    anna, bob = both
    await asyncio.gather(anna.connect(str(bob.uri)), bob.connect(str(anna.uri)))
    await until(lambda: all(peer.offers for node in both for peer in node._links.peers))
    engine.hold()
    stream = anna.execute_ai_query("hello", bob.identity.node_id)
    await until(lambda: stream.answer.text)
    own = next(peer for peer in anna._links.peers if peer.outgoing)
    own._stream.abort()
    await until(lambda: own.closed and not stream.away)
    engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert len(engine.seen) == 1
