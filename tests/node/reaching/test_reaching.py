"""What a node tells of the ways to its peers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import pytest

from dpc_jupyter.errors import (
    AnotherNode,
    ConnectError,
    DpcError,
    HandshakeError,
    NobodyListens,
    NotAnnounced,
    PeerLost,
    PeerNotConnected,
    UriError,
)
from dpc_jupyter.jupyter.faces.state import host_views
from dpc_jupyter.node.asking.answer import AnswerStream
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.reaching.ladder import Attempt, Way, climb
from dpc_jupyter.protocol.messages import RelayPeer
from dpc_jupyter.wording import reached, tried
from node.conftest import EventsOf, MakeNode, Pair
from node.reaching.test_relays import Trio
from node.reaching.test_relays import trio as trio  # the fixture
from node.stub import PIECE, StubEngine
from node.waiting import until


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def test_what_was_tried_and_what_won_is_told(make_node: MakeNode) -> None:
    host, asker = await make_node("anna", StubEngine(), listen=True), await make_node("bob")
    assert host.uri is not None
    await asker.connect(str(host.uri), name="anna")
    assert tried(asker.attempts(host.identity.node_id)) == ""
    await asker.disconnect("anna")
    stale = PeerUri("127.0.0.1", closed_port(), host.identity.node_id)
    asker.directory.remember(host.identity.node_id, stale, "", None)
    status = await asker.connect("anna")
    assert reached(status) == f"by TLS at 127.0.0.1:{host.uri.port}"
    place = f"127.0.0.1:{stale.port}"
    assert tried(asker.attempts(status.node_id)) == f"Tried as well: TLS at {place} (Nothing listens at {place})."
    assert asker.directory.known[status.node_id]["by"] == f"TLS at 127.0.0.1:{host.uri.port}"


def test_a_way_that_had_not_answered_yet_is_told_and_one_that_was_not_needed_is_not() -> None:
    attempts = (Attempt("TLS at h:1"), Attempt("WebRTC", won=True), Attempt("over rita"))
    assert tried(attempts) == "Tried as well: TLS at h:1 (no answer yet)."
    lost = Attempt("WebRTC", error="No. Never.")
    assert tried((Attempt("TLS at h:1", won=True), lost)) == "Tried as well: WebRTC (No)."
    assert tried((Attempt("TLS at h:1", won=True), Attempt("WebRTC"))) == ""


async def test_a_link_over_a_relay_is_named_by_it(trio: Trio) -> None:
    trio.relay()
    await trio.link()
    (status,) = [peer for peer in trio.bob.peers() if peer.node_id == trio.anna.identity.node_id]
    assert status.via == ("rita",) and reached(status) == "over rita"
    (view,) = [host for host in host_views((), "", trio.bob.peers(), trio.bob.known()) if host.id == status.node_id]
    assert (view.kind, view.state) == ("via rita", "ready")
    assert trio.bob.directory.known[status.node_id]["by"] == "over rita"


async def test_whom_a_linked_peer_would_relay_us_to_can_be_picked_if_we_know_it(trio: Trio) -> None:
    def shown(node: CoreService) -> Sequence[tuple[str, ...]]:
        return [(h.id, h.name, h.state, h.kind) for h in host_views((), "", node.peers(), node.known())][1:]

    anna_id, rita_id = trio.anna.identity.node_id, trio.rita.identity.node_id
    trio.relay()
    await until(lambda: trio.via.relays)
    assert [each[0] for each in shown(trio.bob)] == [rita_id], "a relay's names prove nothing"
    trio.bob.access.allow(anna_id, name="my anna")
    assert (anna_id, "my anna", "known", "via rita") in shown(trio.bob)
    trio.via.relays = (*trio.via.relays, RelayPeer(trio.bob.identity.node_id, "bob"))
    trio.bob.access.allow(trio.bob.identity.node_id)
    assert trio.bob.identity.node_id not in [each[0] for each in shown(trio.bob)]
    await trio.bob.link_to(anna_id)
    await until(lambda: trio.pair.asker_link.offers)
    assert (anna_id, "my anna", "ready", "via rita") in shown(trio.bob)
    # An address at which nothing listens is no reason to call it unreachable.
    await trio.bob.disconnect("my anna")
    trio.bob.directory.note_lost(anna_id, "Nothing listens at 192.0.2.7:8889.")
    assert (anna_id, "my anna", "known", "via rita") in shown(trio.bob)
    trio.edit(lambda document: {**document, "relay": {"enabled": False}})
    await until(lambda: (anna_id, "my anna", "unreachable", "") in shown(trio.bob))


async def test_a_link_over_a_relay_moves_to_a_better_way_once_there_is_one_and_an_answer_goes_on(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.BETTER_FIRST_S", 0.1)
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.BETTER_LAST_S", 0.3)
    trio.relay()
    relayed = await trio.link()
    trio.engine.hold()
    stream = await trio.pair.started()
    await asyncio.sleep(1)
    assert not relayed.closed, "there is no better way yet"
    uri = await trio.anna.listen("127.0.0.1", 0)
    trio.bob.directory.remember(relayed.node_id, uri, "", None)
    await until(lambda: relayed.closed)
    assert not stream.away
    (status,) = [peer for peer in trio.bob.peers() if peer.node_id == relayed.node_id]
    assert reached(status) == f"by TLS at 127.0.0.1:{uri.port}" and status.models == relayed.offers != ()
    await until(lambda: trio.bob.directory.known[status.node_id].get("by") == f"TLS at 127.0.0.1:{uri.port}")
    trio.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert len(trio.engine.seen) == 1
    assert [row.outcome for row in trio.anna.ledger.rows()] == ["ok"]


async def test_a_link_over_a_relay_beside_a_better_one_is_no_twin_of_it(trio: Trio) -> None:
    """The direct one may be dead: whoever takes the worse way has a reason."""
    trio.relay()
    await until(lambda: trio.via.relays)
    await trio.bob.listen("127.0.0.1", 0)
    await trio.anna.connect(str(trio.bob.uri))
    await trio.bob.connect(trio.anna.identity.node_id)
    links = [peer for peer in trio.bob._rooms.links.peers if peer.node_id == trio.anna.identity.node_id]
    assert sorted((peer.outgoing, peer.rank) for peer in links) == [(False, 0), (True, 2)]


def nearby(node: CoreService, monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Announced in the local network of this node, by whomever."""

    async def find(_: str) -> tuple[tuple[str, int], ...]:
        return addresses

    monkeypatch.setattr("dpc_jupyter.transports.lan.find", find)
    monkeypatch.setattr(node._rooms.presence, "_network", replace(node._rooms.presence._network, lan=True))


async def test_where_the_local_network_leads_is_not_kept_for_other_networks(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever announces a friend's id and passes everything on would be between the two for ever, wherever they are."""
    host, asker = await make_node("anna", StubEngine(), listen=True), await make_node("bob")
    assert host.uri is not None
    host_id, between = host.identity.node_id, (host.uri.host, host.uri.port)
    own = PeerUri("127.0.0.1", closed_port(), host_id)
    asker.directory.remember(host_id, own, "anna", "anna")
    nearby(asker, monkeypatch, between)
    status = await asker.connect("anna")
    assert reached(status) == f"by TLS at 127.0.0.1:{host.uri.port}"
    assert asker.directory.uris_of(host_id) == [own]
    assert asker.directory.known[host_id]["by"] == "TLS in the local network"


async def test_an_announcement_cannot_say_that_a_host_has_ended(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, asker = await make_node("anna", StubEngine(), listen=True), await make_node("bob")
    nearby(asker, monkeypatch, ("127.0.0.1", closed_port()))
    with pytest.raises(ConnectError) as caught:
        await asker.connect(host.identity.node_id)
    assert not isinstance(caught.value, NobodyListens)


async def test_an_impostor_at_one_way_does_not_end_the_wait_for_a_host_that_is_away(
    allowed: Pair, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.LOOK_FIRST_S", -1.0)
    liar = await make_node("liar", listen=True)
    assert liar.uri is not None
    nearby(allowed.asker, monkeypatch, (liar.uri.host, liar.uri.port))
    connect, tried = allowed.asker._rooms.links.connect, []

    async def cut_off(uri: PeerUri, timeout_s: float) -> Peer:
        tried.append(uri.port)
        if uri.port != liar.uri.port and len(tried) < 10:  # type: ignore[union-attr]
            raise ConnectError("Network is unreachable.")
        return await connect(uri, timeout_s)

    monkeypatch.setattr(allowed.asker._rooms.links, "connect", cut_off)
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.asker_link._stream.abort()
    await until(lambda: stream.done or len(tried) >= 10)
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert liar.uri.port in tried


async def test_no_way_is_a_refusal_only_if_each_one_is() -> None:
    async def fail(error: DpcError) -> Peer:
        raise error

    def ways(*errors: DpcError) -> list[Way]:
        return [Way(f"way {number}", partial(fail, error)) for number, error in enumerate(errors)]

    away, other, gone = ConnectError("away"), HandshakeError("a liar"), NobodyListens("gone")
    another = AnotherNode("bob")
    for errors, kind in {
        (other, other): HandshakeError,
        (other, NotAnnounced("here"), other): HandshakeError,
        (away, other): ConnectError,
        (gone, other): ConnectError,
        (gone, gone): NobodyListens,
        (another, another): AnotherNode,
        (another, other): HandshakeError,
        (NotAnnounced("here"), NotAnnounced("here")): ConnectError,
    }.items():
        with pytest.raises(DpcError) as caught:
            await climb(ways(*errors), 0.001)
        assert type(caught.value) is kind


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.RECONNECT_FIRST_S", 0.1)
    monkeypatch.setattr("dpc_jupyter.node.reaching.wanted.rules.RECONNECT_LAST_S", 0.3)


async def test_a_host_that_is_started_again_is_linked_to_again(soon: None, make_node: MakeNode) -> None:
    host, asker = await make_node("anna", listen=True), await make_node("bob")
    assert host.uri is not None
    await asker.connect(str(host.uri))
    await host.stop()
    await until(lambda: not asker.peers())
    again = await make_node("anna", home=host.home)
    await asyncio.sleep(0.5)
    await again.listen("127.0.0.1", host.uri.port)
    await until(lambda: [peer.session for peer in asker.peers()] == [again.session])


async def test_whom_either_side_sent_away_is_left_alone(
    soon: None, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, asker = await make_node("anna", listen=True), await make_node("bob")
    uri = str(host.uri)
    await asker.connect(uri)
    await asker.disconnect(host.identity.node_id)
    await asker.connect(uri)
    await until(lambda: host.peers())
    await host.disconnect(asker.identity.node_id)
    await until(lambda: not asker.peers())
    await asyncio.sleep(1)
    assert not (asker.peers() or host.peers())
    # And a link that breaks, to a host that turns us away since: that is its last word.
    await asker.connect(uri)
    tried: list[object] = []

    def no_place(peer: object) -> str:
        tried.append(peer)
        return "No place for you."

    monkeypatch.setattr(host._rooms.links, "_no_place_for", no_place)
    asker._rooms.links.peers[0]._stream.abort()
    await until(lambda: tried)
    await asyncio.sleep(1)
    assert len(tried) == 1 and not asker.peers()


async def test_a_node_stays_linked_to_a_peer_that_comes_later_and_says_that_it_is_not_there_once(
    soon: None, make_node: MakeNode, events_of: EventsOf
) -> None:
    host, asker = await make_node("anna"), await make_node("bob")
    events = events_of(asker)
    asker.keep_linked(f"dpc://127.0.0.1:{(port := closed_port())}?node_id={host.identity.node_id}")
    await asyncio.sleep(0.5)
    assert [event.text.partition(": ")[2] for event in events if event.kind == "peer_away"] == [
        f"Nothing listens at 127.0.0.1:{port}. Is the host started and sharing?"
    ]
    await host.listen("127.0.0.1", port)
    await until(lambda: asker.peers())
    await asker.disconnect(host.identity.node_id)
    await asyncio.sleep(1)
    assert not asker.peers()
    with pytest.raises(UriError):
        asker.keep_linked("https://example.org")


async def test_a_relay_that_stops_relaying_is_no_end_of_the_host(trio: Trio) -> None:
    """Nor does it say anything that nobody listens where the host listened once."""
    trio.relay()
    stale = PeerUri("127.0.0.1", closed_port(), trio.anna.identity.node_id)
    trio.bob.directory.remember(stale.node_id, stale, "anna", "anna")
    await trio.link()
    trio.engine.hold()
    stream = await trio.pair.started()
    trio.edit(lambda document: {**document, "relay": {"enabled": False}})
    await until(lambda: stream.away)
    await asyncio.sleep(2)
    assert stream.away and stream.status is not None and "anna is unreachable, trying again" in stream.status.note
    trio.relay()
    await until(lambda: not stream.away)
    trio.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert len(trio.engine.seen) == 1


async def test_a_host_that_was_just_lost_is_dialled_before_it_is_looked_for(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look around takes seconds, and most links are back before its end."""
    looked: list[str] = []

    async def find(node_id: str) -> tuple[tuple[str, int], ...]:
        looked.append(node_id)
        return ()

    nearby(allowed.asker, monkeypatch)
    monkeypatch.setattr("dpc_jupyter.transports.lan.find", find)
    connect, dialled = allowed.asker._rooms.links.connect, []

    async def away_for_a_moment(uri: PeerUri, timeout_s: float) -> Peer:
        dialled.append(uri)
        if len(dialled) < 3:
            raise ConnectError("Network is unreachable.")
        return await connect(uri, timeout_s)

    monkeypatch.setattr(allowed.asker._rooms.links, "connect", away_for_a_moment)
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.asker_link._stream.abort()
    await until(lambda: stream.away)
    await until(lambda: not stream.away)
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert not looked


async def lose_host(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> tuple[AnswerStream, list[bool]]:
    """In the middle of an answer, and until the list is cleared."""
    connect, away = pair.asker._rooms.links.connect, [True]

    async def away_until_told(uri: PeerUri, timeout_s: float) -> Peer:
        if away:
            raise ConnectError("Network is unreachable.")
        return await connect(uri, timeout_s)

    monkeypatch.setattr(pair.asker._rooms.links, "connect", away_until_told)
    pair.engine.hold()
    stream = await pair.started()
    pair.asker_link._stream.abort()
    await until(lambda: stream.away)
    return stream, away


async def test_whom_nobody_waits_for_any_more_is_linked_to_all_the_same(
    soon: None, allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, away = await lose_host(allowed, monkeypatch)
    stream.cancel()
    await until(lambda: not allowed.asker._rooms.requester.waiting_for(allowed.host_id))
    away.clear()
    await until(lambda: allowed.asker.peers())


async def test_a_host_that_is_lost_again_before_its_return_is_noticed_is_dialled_again(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, dialled = allowed.asker._rooms.links.connect, []

    async def gone_at_once(uri: PeerUri, timeout_s: float) -> Peer:
        peer = await connect(uri, timeout_s)
        dialled.append(peer)
        if len(dialled) == 1:
            peer._stream.abort()
            await until(lambda: peer.closed)
        return peer

    monkeypatch.setattr(allowed.asker._rooms.links, "connect", gone_at_once)
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.asker_link._stream.abort()
    await until(lambda: len(dialled) == 2 and not stream.away)
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4


async def test_a_peer_is_linked_again_though_another_node_had_its_address_meanwhile(
    soon: None, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that several share: that one answers says nothing of the other."""
    host, asker, other = await make_node("anna", listen=True), await make_node("bob"), await make_node("carl")
    assert host.uri is not None
    await asker.connect(str(host.uri))
    await host.stop()
    await other.listen("127.0.0.1", host.uri.port)
    connect, met = asker._rooms.links.connect, list[AnotherNode]()

    async def watched(uri: PeerUri, timeout_s: float) -> Peer:
        try:
            return await connect(uri, timeout_s)
        except AnotherNode as error:
            met.append(error)
            raise

    monkeypatch.setattr(asker._rooms.links, "connect", watched)
    await until(lambda: met)
    await other.stop()
    again = await make_node("anna", home=host.home)
    await again.listen("127.0.0.1", host.uri.port)
    await until(lambda: [peer.session for peer in asker.peers()] == [again.session])


async def test_a_host_that_is_away_can_be_disconnected(
    soon: None, allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, away = await lose_host(allowed, monkeypatch)
    await allowed.asker.disconnect(allowed.host.identity.node_id)
    with pytest.raises(PeerLost, match="disconnected by its user"):
        await stream.complete()
    away.clear()
    await asyncio.sleep(1)
    assert not allowed.asker.peers()
    with pytest.raises(PeerNotConnected):
        await allowed.asker.disconnect(allowed.host.identity.node_id)


async def test_a_link_of_theirs_that_ours_gave_way_to_brings_an_answer_back(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it came, nobody had dialled it: it might have been another process of that user."""
    resume, came = allowed.asker._rooms.requester.resume, []

    def not_at_first(peer: Peer) -> None:
        came.append(peer)
        if len(came) > 1:
            resume(peer)

    allowed.engine.hold()
    stream = await allowed.started()
    monkeypatch.setattr(allowed.asker._rooms.requester, "resume", not_at_first)
    allowed.asker_link._stream.abort()
    await until(lambda: came)
    await until(lambda: not stream.away)
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4


async def test_a_fault_at_one_way_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def fault() -> Peer:
        raise RuntimeError("a fault that nobody thought of")

    async def works() -> Peer:
        return link

    link = cast(Peer, object())
    assert (await climb([Way("one", fault), Way("two", works)], 0.01))[0] is link
    with pytest.raises(ConnectError, match="RuntimeError"):
        await climb([Way("one", fault)])
    caplog.clear()


async def test_a_host_whose_links_break_at_once_is_dialled_later_and_later(
    soon: None, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, asker = await make_node("anna", listen=True), await make_node("bob")
    opened: list[Peer] = []

    def break_it(peer: Peer) -> None:
        opened.append(peer)
        asyncio.get_running_loop().call_later(0.01, peer._stream.abort)

    monkeypatch.setattr(host._rooms.links._node, "peer_opened", break_it)
    await asker.connect(str(host.uri))
    await asyncio.sleep(3)
    assert 4 <= len(opened) <= 10, "0.2, 0.4, 0.8, 1.6 s behind the first ones"


async def test_a_link_that_breaks_as_it_is_made_again_is_looked_for_again(
    soon: None, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, asker = await make_node("anna", listen=True), await make_node("bob")
    await asker.connect(str(host.uri))
    connect, made = asker._rooms.links.connect, []

    async def breaks_once(uri: PeerUri, timeout_s: float) -> Peer:
        peer = await connect(uri, timeout_s)
        made.append(peer)
        if len(made) == 1:
            peer._stream.abort()
            await until(lambda: peer.closed)
        return peer

    monkeypatch.setattr(asker._rooms.links, "connect", breaks_once)
    asker._rooms.links.peers[0]._stream.abort()
    await until(lambda: len(made) == 2 and asker.peers())


async def test_a_fault_while_a_host_is_looked_for_fails_what_waits_for_it(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object, **__: object) -> list[Way]:
        raise RuntimeError("a fault that nobody thought of")

    monkeypatch.setattr(allowed.asker._rooms.reach._ways, "to", fault)
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.asker_link._stream.abort()
    with pytest.raises(PeerLost, match="Partial text is kept"):
        await stream.complete()
    assert "a fault that nobody thought of" in caplog.text
    caplog.clear()
