"""One identity, many sessions; and strangers, who get little room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dpc_jupyter.errors import ConnectError, HandshakeError, PeerLost
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links import links as links_module
from dpc_jupyter.protocol.connection import Connection
from node.conftest import MakeHome, MakeNode, MakePair, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until


def without_extensions(make: Callable[..., Connection]) -> Callable[..., Connection]:
    """As a DPTP v1.5 peer that has learnt to bind its proof to the channel."""

    def connection(*args: Any, **role: Any) -> Connection:
        made = make(*args, **role)
        made._ext = None  # type: ignore[assignment]
        return made

    return connection


async def test_two_notebooks_of_one_user_never_touch_each_other(allowed: Pair, make_node: MakeNode) -> None:
    second = await make_node("bob too", home=allowed.asker.home)
    await second.connect(str(allowed.host.uri))
    assert len(allowed.host.peers()) == 2
    allowed.engine.hold()
    one, two = await allowed.started(), second.execute_ai_query("hello", allowed.host_id)
    await until(lambda: two.answer.text)
    await second.stop()
    await until(lambda: len(allowed.host.peers()) == 1)
    assert allowed.engine.running == 1
    allowed.engine.gate.set()
    assert (await one.complete()).text == PIECE * 4


async def test_the_same_session_that_comes_again_replaces_its_older_link(allowed: Pair) -> None:
    older = allowed.host_link
    allowed.asker._rooms.links._peers.clear()  # the asker has forgotten it
    await allowed.asker.connect(str(allowed.host.uri))
    await until(lambda: older.closed)
    assert len(allowed.host.peers()) == 1
    assert (await allowed.ask().complete()).text == PIECE * 4


async def test_a_peer_that_comes_again_and_cannot_go_on_keeps_its_link_and_what_was_open_ends(
    make_node: MakeNode, make_home: MakeHome
) -> None:
    bob, engine, home = await make_node("bob", StubEngine(), listen=True), StubEngine(), make_home("anna")
    annas = [await make_node(name, engine, home=home) for name in ("anna", "anna again")]
    for anna in annas:
        anna._rooms.links._connection = without_extensions(anna._rooms.links._connection)  # type: ignore[method-assign]
        anna.access.allow(bob.identity.node_id)
        anna.access.set_sharing(True)
    bob.access.allow(annas[0].identity.node_id, name="anna")
    bob.access.set_sharing(True)
    await annas[0].connect(str(bob.uri))
    await until(lambda: any(peer.offers for peer in bob._rooms.links.peers))
    engine.hold()
    asked = bob.execute_ai_query("hello", "anna")
    await until(lambda: engine.running)
    await annas[1].connect(str(bob.uri))
    with pytest.raises(PeerLost, match="cannot go on"):
        await asked.complete()
    engine.gate.set()
    (link,) = bob._rooms.links.peers
    assert not link.closed
    assert (await bob.send_ai_query("hello", "anna")).text == PIECE * 4


async def test_connecting_twice_uses_one_link(allowed: Pair) -> None:
    link = allowed.asker_link
    await allowed.asker.connect(str(allowed.host.uri))
    assert allowed.asker_link is link
    assert len(allowed.host.peers()) == 1


async def test_two_nodes_that_dial_each_other_both_ask(allowed: Pair, make_node: MakeNode) -> None:
    other = await make_node("carol", allowed.engine, listen=True)
    other.access.allow(allowed.host_id)
    other.access.set_sharing(True)
    allowed.host.access.allow(other.identity.node_id)
    await allowed.host.connect(str(other.uri))
    await other.connect(str(allowed.host.uri))
    for node, peer in ((other, allowed.host_id), (allowed.host, other.identity.node_id)):
        assert (await node.send_ai_query("hello", peer)).text == PIECE * 4


async def test_a_node_may_link_to_itself(allowed: Pair) -> None:
    allowed.host.access.allow(allowed.host_id)
    peer = await allowed.host.connect(str(allowed.host.uri))
    assert (await allowed.host.send_ai_query("hello", peer.node_id)).text == PIECE * 4


async def test_a_stranger_gets_few_sessions(stranger: Pair, make_node: MakeNode) -> None:
    second = await make_node("second", home=stranger.asker.home)
    await second.connect(str(stranger.host.uri))
    third = await make_node("third", home=stranger.asker.home)
    with pytest.raises(HandshakeError, match="has 2 connections here already"):
        await third.connect(str(stranger.host.uri))


async def test_strangers_who_do_not_hang_up_make_room_all_the_same(
    make_pair: MakePair,
    make_node: MakeNode,
    make_home: MakeHome,
    identities: list[Identity],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links_module, "STRANGERS_LIMIT", 2)
    pair = await make_pair(allow=False)
    for number in range(4):
        node = await make_node(f"stranger {number}", home=make_home(f"stranger {number}", identities[-1 - number]))
        await node.connect(str(pair.host.uri))
        node._rooms.links.peers[0]._stream._transport.pause_reading()  # type: ignore[attr-defined]
        assert len(pair.host.peers()) <= 2


async def test_a_full_host_says_so_and_a_known_peer_is_not_kept_out_by_strangers(
    make_pair: MakePair, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "PEERS_LIMIT", 1)
    pair = await make_pair()
    carol = await make_node("carol")
    pair.host.access.allow(carol.identity.node_id)
    with pytest.raises(HandshakeError, match="holds 1 connections and takes no more"):
        await carol.connect(str(pair.host.uri))
    await pair.asker.disconnect("anna")
    await until(lambda: not pair.host.peers())
    await carol.connect(str(pair.host.uri))


async def test_nobody_there_is_said_with_the_fix(allowed: Pair) -> None:
    uri = str(allowed.host.uri)
    await allowed.host.stop()
    await until(lambda: not allowed.asker.peers())
    with pytest.raises(ConnectError, match="Is the host started and sharing"):
        await allowed.asker.connect(uri)
