"""What breaks: links, hosts, askers, clocks."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
from types import SimpleNamespace

import pytest

from dpc_jupyter import firewall, identity
from dpc_jupyter.errors import InferenceError, PeerLost, PeerNotConnected, Revoked
from node.conftest import MakeHome, MakeNode, MakePair, Pair
from node.processes import headless, share_with
from node.stub import PIECE, StubEngine
from node.waiting import until


@pytest.mark.parametrize("how", ["the host stops", "the host hangs up", "the asker hangs up"])
async def test_a_lost_host_is_known_at_once_by_name_and_the_text_is_kept(
    allowed: Pair, make_node: MakeNode, how: str
) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    if how == "the host stops":
        await allowed.host.stop()
    elif how == "the host hangs up":
        await allowed.host.disconnect("bob")
    else:
        await allowed.asker.disconnect("anna")
    assert await until(lambda: stream.done) < 2
    with pytest.raises((PeerLost, InferenceError), match=r"anna was lost|host is shutting down"):
        await stream.complete()
    assert (stream.answer.text, stream.answer.finish_reason) == (PIECE, "error")
    await until(lambda: not allowed.engine.running, within_s=2)
    with pytest.raises(PeerNotConnected, match=r"%dpc_connect anna"):
        allowed.ask()
    allowed.engine.gate.set()
    host = allowed.host
    if how == "the host stops":
        host = await make_node("anna again", allowed.engine, listen=True, home=allowed.host.home)
    await allowed.asker.connect(str(host.uri))
    assert (await allowed.ask().complete()).text == PIECE * 4


async def test_kill_9_of_the_host_is_known_within_2_s_and_the_asker_stays_usable(
    make_home: MakeHome, make_node: MakeNode
) -> None:
    asker, home = await make_node("bob", StubEngine()), make_home("host")
    share_with(home, asker.identity.node_id)
    with headless(home) as host:
        peer = await asker.connect(host.uri)
        stream = asker.execute_ai_query("hello", peer.node_id)
        await until(lambda: stream.answer.text)
        host.process.send_signal(signal.SIGKILL)
        assert await until(lambda: stream.done) < 2
    assert isinstance(stream.error, PeerLost)
    assert stream.answer.text.startswith(PIECE)
    assert not asker.peers()
    assert (await asker.send_ai_query("hello", "local")).text == PIECE * 4


async def test_a_host_that_is_frozen_can_be_left_at_once(make_home: MakeHome, make_node: MakeNode) -> None:
    asker, home = await make_node("bob"), make_home("host")
    share_with(home, asker.identity.node_id)
    with headless(home) as host:
        peer = await asker.connect(host.uri)
        stream = asker.execute_ai_query("hello", peer.node_id)
        await until(lambda: stream.answer.text)
        os.kill(host.process.pid, signal.SIGSTOP)
        await asker.disconnect(peer.node_id)
        assert await until(lambda: stream.done) < 2
        assert isinstance(stream.error, PeerLost)


@pytest.mark.parametrize("years", ["10", "-10"])
async def test_a_clock_10_years_off_does_not_matter(make_home: MakeHome, make_node: MakeNode, years: str) -> None:
    node, home = await make_node("bob", StubEngine(), listen=True), make_home("other")
    node.access.allow(home.load_identity().node_id)
    node.access.set_sharing(True)
    share_with(home, node.identity.node_id)
    with headless(home, "--years", years, "--ask", str(node.uri), "hello") as other:
        await until(lambda: [row.outcome for row in node.ledger.rows()] == ["ok"])
        peer = await node.connect(other.uri)
        stream = node.execute_ai_query("hello", peer.node_id)
        await until(lambda: stream.answer.text)
        await stream.aclose()


@pytest.mark.parametrize("years", [(1990, 2000), (2090, 2120)])
async def test_dates_of_a_certificate_do_not_matter(
    make_home: MakeHome, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, years: tuple[int, int]
) -> None:
    moments = iter(dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in years)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "dt", SimpleNamespace(datetime=lambda *_, **__: next(moments), UTC=dt.UTC))
        odd = identity.generate()
    host, asker = await make_node("odd", StubEngine(), listen=True, home=make_home("odd", odd)), await make_node("bob")
    share_with(host.home, asker.identity.node_id)
    host.access.reload()
    peer = await asker.connect(str(host.uri))
    assert (await asker.send_ai_query("hello", peer.node_id)).text == PIECE * 4


async def test_a_link_that_is_closing_stops_neither_the_watch_nor_anybody_else(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.asker_link._stream._transport.pause_reading()  # type: ignore[attr-defined]
    allowed.host.access.deny("bob")
    await allowed.host.disconnect(allowed.asker_id)
    assert await until(lambda: not allowed.engine.running) < 1
    assert not allowed.host.peers()
    allowed.host.home.edit_access(lambda document: firewall.set_enabled(document, False))
    await until(lambda: not allowed.host.access.rules.enabled, within_s=1)
    await until(lambda: [row.outcome for row in allowed.host.ledger.rows()] in (["revoked"], ["peer_lost"]))
    stream.cancel()


async def test_a_request_that_is_revoked_and_cut_off_in_one_turn_ends_once(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.host.access.deny("bob")
    allowed.host._rooms.host.reconsider()
    stream.cancel()
    await until(lambda: not allowed.host.status().serving)
    assert [row.outcome for row in allowed.host.ledger.rows()] == [Revoked.code]


async def test_a_peer_that_goes_while_the_engines_are_asked_leaves_nothing_behind(make_pair: MakePair) -> None:
    pair = await make_pair(allow=True)
    pair.engine.list_pause_s = 0.2
    pair.host._rooms.registry._fresh_s = 0
    listing = asyncio.create_task(pair.asker.models("anna"))
    await asyncio.sleep(0.05)
    pair.asker_link.abort("gone")
    await listing
    await asyncio.sleep(0.3)  # what it may have left is looked for when the node stops


async def test_models_of_a_host_that_does_not_answer_are_those_it_said_last(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowed.host._rooms.links._node, "peer_said", lambda *_: None)
    before = allowed.asker.peers()[0].models
    for _ in range(3):
        assert await allowed.asker.models("anna", timeout_s=0.05) == before
