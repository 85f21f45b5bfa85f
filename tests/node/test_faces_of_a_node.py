"""What a node does for the faces that people look at: who is known, how busy, a pause, a download that is seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from msgspec import UNSET

from dpc_jupyter import firewall
from dpc_jupyter.backends.base import Delta, Finished, Generation
from dpc_jupyter.errors import AccessDenied, Busy, ConfigError, ConnectError, InferenceTimeout, PeerNotConnected
from dpc_jupyter.firewall import read_edits
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.status import KnownPeer
from dpc_jupyter.protocol.messages import GetProviders, Load, ProviderInfo, ProvidersResponse, RemoteInferenceStatus
from node.conftest import MakeNode, MakePair, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until

# Pausing.


async def test_a_host_that_is_paused_refuses_what_is_new_and_finishes_what_it_has(allowed: Pair) -> None:
    allowed.limit(running=1)
    allowed.engine.hold()
    running, waiting = await allowed.started(), allowed.ask()
    await until(lambda: waiting.status is not None and waiting.status.position == 1)
    allowed.host.access.set_paused(True)
    assert allowed.host.status().paused and allowed.host.status().sharing
    with pytest.raises(Busy, match="the host's owner has paused sharing; try again later"):
        await allowed.ask().complete()
    assert (await allowed.host.execute_ai_query("hello", timeout_s=5).__aiter__().__anext__()) is not None
    allowed.engine.gate.set()
    assert (await running.complete()).text == (await waiting.complete()).text == PIECE * 4
    allowed.host.access.set_paused(False)
    assert (await allowed.ask().complete()).text == PIECE * 4
    assert not allowed.host.status().paused


async def test_a_pause_of_one_node_holds_for_every_node_of_its_home_and_for_those_that_start_later(
    allowed: Pair, make_node: MakeNode
) -> None:
    beside = await make_node("anna's notebook", home=allowed.host.home)
    beside.access.set_paused(True)
    await until(lambda: allowed.host.status().paused, within_s=1)
    with pytest.raises(Busy, match="paused sharing"):
        await allowed.ask().complete()
    assert allowed.asker.peers()[0].models, "whoever is let in stays so"
    later = await make_node("anna tomorrow", home=allowed.host.home)
    assert later.status().paused
    later.access.set_paused(False)
    await until(lambda: not allowed.host.status().paused, within_s=1)
    assert (await allowed.ask().complete()).text == PIECE * 4


async def test_a_stranger_does_not_learn_that_a_host_is_paused(stranger: Pair) -> None:
    stranger.host.access.set_sharing(True)
    stranger.host.access.set_paused(True)
    with pytest.raises(AccessDenied):
        await stranger.ask().complete()


# How busy a host is.


async def asked_again(pair: Pair) -> Load | None:
    """What the host says of itself now."""
    await pair.asker.models(pair.host_id)
    return pair.asker.peers()[0].load


async def test_a_host_says_how_many_run_and_wait_and_how_long_one_more_would(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1))
    assert await asked_again(pair) == Load(0, 0, None)
    assert (await pair.ask().complete()).text  # from here on it knows how long one takes
    pair.engine.hold()
    streams = [await pair.started()]
    assert await asked_again(pair) == Load(1, 0, None)
    streams += [pair.ask(), pair.ask()]
    await until(lambda: all(stream.status is not None for stream in streams))
    load = await asked_again(pair)
    assert load is not None and (load.running, load.waiting) == (1, 2)
    assert load.eta_s is not None and load.eta_s >= 0
    pair.engine.gate.set()
    for stream in streams:
        await stream.complete()
    assert await asked_again(pair) == Load(0, 0, None)


async def test_only_whom_a_host_lets_in_learns_how_busy_it_is(stranger: Pair) -> None:
    assert await asked_again(stranger) is None
    stranger.host.access.allow(stranger.asker_id)
    stranger.host.access.set_sharing(True)
    assert await asked_again(stranger) == Load(0, 0, None)
    stranger.host.access.set_sharing(False)
    assert await asked_again(stranger) is None


async def test_a_peer_without_extensions_gets_the_list_as_it_always_was(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    link = allowed.host_link
    monkeypatch.setattr(type(link), "extended", property(lambda _: False))
    monkeypatch.setattr(link, "send", sent.append)
    allowed.asker_link.send(GetProviders())
    await until(lambda: sent)
    (answer,) = sent
    assert isinstance(answer, ProvidersResponse) and len(answer.providers) == 2
    assert answer.load is UNSET


async def test_a_refresh_asks_every_host_and_nobody_who_only_asks_us(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(allowed.host_link, "send", asked.append)
    allowed.host.refresh()
    assert asked == []
    monkeypatch.undo()
    allowed.engine.hold()
    stream = await allowed.started()
    assert allowed.asker.peers()[0].load == Load(0, 0, None), "what it said when it was linked"
    allowed.asker.refresh()
    await until(lambda: allowed.asker.peers()[0].load == Load(1, 0, None))
    await stream.aclose()


# Who is known.


async def test_a_peer_that_was_dialled_is_known_and_says_why_it_is_not_linked(allowed: Pair) -> None:
    (anna,) = allowed.asker.known()
    assert (anna.node_id, anna.name, anna.reason) == (allowed.host_id, "anna", "")
    assert time.time() - anna.last_seen < 60
    assert allowed.host.known() == (), "who only dials us is not known"
    await allowed.asker.disconnect("anna")
    assert allowed.asker.known()[0].reason == "", "it was meant so"
    await allowed.asker.connect("anna")
    await allowed.host.stop()
    await until(lambda: allowed.asker.known()[0].reason.startswith("disconnected: "))
    with pytest.raises(ConnectError):
        await allowed.asker.connect("anna")
    assert "Nothing listens" in allowed.asker.known()[0].reason


async def test_an_address_that_never_answered_is_not_known(make_node: MakeNode) -> None:
    node = await make_node("bob")
    with pytest.raises(ConnectError):
        await node.connect(f"dpc://127.0.0.1:9?node_id=dpc-node-{'a' * 32}")
    assert node.known() == ()
    assert node.directory._lost == {}


async def test_the_reason_of_one_that_is_linked_again_is_gone(allowed: Pair) -> None:
    allowed.host_link.close("the lecture is over")
    await until(lambda: "the lecture is over" in allowed.asker.known()[0].reason)
    await allowed.asker.connect("anna")
    assert allowed.asker.known()[0].reason == ""


@pytest.mark.parametrize("seen", ["yesterday", None, -1, 10**400, [1]])
async def test_a_time_that_is_none_does_no_harm(make_node: MakeNode, make_pair: MakePair, seen: object) -> None:
    pair = await make_pair()
    home = pair.asker.home
    await until(home.read_peers)
    home.edit_peers(lambda known: {node_id: {**entry, "last_seen": seen} for node_id, entry in known.items()})
    again = CoreService(home, name="bob")
    try:
        assert again.known() == (KnownPeer(pair.host_id, "anna", 0.0, ""),)
        await again.connect("anna")
        assert time.time() - again.known()[0].last_seen < 60
    finally:
        await again.stop()


async def test_a_host_is_linked_to_only_if_it_is_not(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(allowed.asker._rooms.reach, "connect", None)
        assert (await allowed.asker.link_to("anna")).node_id == allowed.host_id
    await allowed.asker.disconnect("anna")
    assert (await allowed.asker.link_to(allowed.host_id)).name == "anna"
    assert not allowed.asker_link.closed
    assert (await allowed.asker.link_to(str(allowed.host.uri))).node_id == allowed.host_id
    with pytest.raises(PeerNotConnected, match="Nobody is known as carol"):
        await allowed.asker.link_to("carol")


async def test_tokens_and_pieces_are_counted_at_both_ends(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    assert [each.tokens for each in allowed.asker.status().asking] == [1]
    assert [each.tokens for each in allowed.host.status().serving] == [1]
    assert allowed.asker.status().tokens == allowed.host.status().tokens == 1
    allowed.engine.gate.set()
    await stream.complete()
    assert allowed.host.status().tokens == 4
    assert 2 <= allowed.asker.status().tokens <= 4, "pieces that came together are one"


# A download that is seen.


class Fetching(StubEngine):
    """It says how far it has come each time that somebody lets it, before its first piece."""

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished]:
        self.progress: asyncio.Queue[str] = asyncio.Queue()
        self.tell = generation.tell
        while (news := await self.progress.get()) != "done":
            generation.tell(news)
        async for event in super().stream(generation):
            yield event


async def fetching(engine: Fetching) -> None:
    await until(lambda: hasattr(engine, "progress"))


async def test_a_peer_sees_how_far_the_hosts_download_has_come(make_pair: MakePair) -> None:
    engine = Fetching(warm=False)
    pair = await make_pair(engine)
    stream = pair.ask()
    await fetching(engine)
    for news in ("fetching it: 1 of 90 MB", "fetching it: 2 of 90 MB"):
        engine.progress.put_nowait(news)
        await until(lambda news=news: stream.status is not None and stream.status.note == news)  # type: ignore[misc]
        assert stream.status == RemoteInferenceStatus(stream.request.request_id, "loading", note=news)
        assert pair.host.status().serving[0].state == pair.asker.status().asking[0].state == "loading"
    engine.progress.put_nowait("done")
    assert (await stream.complete()).text == PIECE * 4
    engine.tell("fetching it: 3 of 90 MB")  # a late word of a thread


async def test_a_download_that_goes_on_without_its_asker_tells_nobody(make_pair: MakePair) -> None:
    engine = Fetching()
    pair = await make_pair(engine)
    stream = pair.ask()
    await fetching(engine)
    await stream.aclose()
    await until(lambda: not pair.host.status().serving)
    sent: list[object] = []
    pair.host_link.send_when_room = sent.append  # type: ignore[assignment, method-assign]
    engine.tell("fetching it: 3 of 90 MB")
    assert sent == []


async def test_once_text_comes_no_more_is_said_of_the_download(make_pair: MakePair) -> None:
    engine = Fetching()
    pair = await make_pair(engine)
    engine.hold()
    stream = pair.ask()
    await fetching(engine)
    engine.progress.put_nowait("done")
    await until(lambda: stream.answer.text)
    engine.tell("fetching it: 3 of 90 MB")
    assert pair.host.status().serving[0].state == "running"
    await stream.aclose()


async def test_our_own_download_is_no_silence_and_a_hosts_word_of_one_does_not_hold_us(make_pair: MakePair) -> None:
    engine = Fetching()
    pair = await make_pair(engine)
    here = pair.host.execute_ai_query("hello", timeout_s=0.4)
    await fetching(engine)
    for _ in range(8):
        engine.progress.put_nowait("fetching it: 1 of 90 MB")
        await asyncio.sleep(0.1)  # in sum twice the clock
    assert here.status is not None and here.status.note == "fetching it: 1 of 90 MB"
    engine.progress.put_nowait("done")
    assert (await here.complete()).text == PIECE * 4
    del engine.progress
    there = pair.ask(timeout_s=0.4)
    await fetching(engine)
    for _ in range(40):
        engine.progress.put_nowait("fetching it: 1 of 90 MB")
        await asyncio.sleep(0.05)
    assert there.done
    with pytest.raises(InferenceTimeout, match="no first token"):
        await there.complete()


# Two editors.


async def test_a_preview_is_what_would_be_written_and_two_editors_lose_nothing(allowed: Pair) -> None:
    access, home, node_id = allowed.host.access, allowed.host.home, allowed.asker_id
    mine = read_edits([{"kind": "person", "node_id": node_id, "models": ["stub-1"]}])
    theirs = read_edits([{"kind": "person", "node_id": node_id, "limits": {"running": 1}, "expires": "7d"}])
    before, after = access.preview(mine)
    assert before == home.access_path.read_text() and '"stub-1"' in after
    access.revise(theirs)
    assert home.access_path.read_text() not in (before, after)
    access.revise(mine)
    own = home.access_document()["nodes"][node_id]
    assert (own["name"], own["allowed_models"], own["limits"]) == ("bob", ["stub-1"], {"running": 1})
    assert own["expires"].endswith("Z")
    assert access.rules.limits_for(node_id).running == 1, "in force at once"
    await until(lambda: [offer.model for offer in allowed.asker.peers()[0].models] == ["stub-1"], within_s=1)


async def test_an_edit_and_a_hand_at_the_file_at_once_lose_nothing(allowed: Pair) -> None:
    access, home = allowed.host.access, allowed.host.home
    node_ids = [f"dpc-node-{number:032x}" for number in range(12)]

    def by_hand(node_id: str) -> None:
        home.edit_access(lambda document: firewall.allow(document, node_id))

    def in_editor(node_id: str) -> None:
        access.revise(read_edits([{"kind": "person", "node_id": node_id, "listed": True}]))

    work = [in_editor if number % 2 else by_hand for number in range(12)]
    await asyncio.gather(*(asyncio.to_thread(do, node_id) for do, node_id in zip(work, node_ids, strict=True)))
    assert {*node_ids, allowed.asker_id} == set(home.access_document()["compute"]["allow_nodes"])


async def test_an_edit_of_a_spoilt_file_writes_nothing(allowed: Pair) -> None:
    allowed.host.home.access_path.write_text('{"compute": 1}')
    edits = read_edits([{"kind": "sharing", "on": True}])
    for change in (allowed.host.access.preview, allowed.host.access.revise):
        with pytest.raises(ConfigError, match="line 1, column 13"):
            change(edits)
    assert allowed.host.home.access_path.read_text() == '{"compute": 1}'


# Who may stand among the hosts.


async def test_what_a_stranger_offers_is_not_heard(stranger: Pair) -> None:
    (link,) = stranger.host._rooms.links.peers
    assert link.stranger
    back = stranger.asker._rooms.links.of(stranger.host_id)
    assert back is not None
    back.send(ProvidersResponse((ProviderInfo("ollama", "llama3-70b"),), Load(0, 0)))
    await stranger.asker.models(stranger.host_id)  # frames keep their order: it has been read
    assert (link.offers, link.load) == ((), None)


async def test_a_stopped_answer_names_the_model_that_the_host_offers_first(allowed: Pair) -> None:
    await allowed.asker.models(allowed.host_id)
    allowed.engine.hold()
    stream = await allowed.started()
    stream.cancel()
    assert (stream.answer.model, stream.answer.provider) == ("stub-1", "stub")
