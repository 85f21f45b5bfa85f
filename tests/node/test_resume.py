"""Coming back after a break: a request outlives the link that it came by."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpc_jupyter.errors import AccessDenied, AnswerGone, InvalidRequest, PeerLost, RequestCancelled
from dpc_jupyter.node.asking.answer import RETURNS_LIMIT, AnswerStream
from dpc_jupyter.node.asking.request import Clocks, InferenceRequest, conversation
from dpc_jupyter.node.asking.requester import Requester
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.peer import FRAME_BYTES, Peer
from dpc_jupyter.node.serving.kept import KEEP_LIMIT, KEEP_LIMIT_BYTES, KeptAnswers
from dpc_jupyter.node.serving.served import Serving
from dpc_jupyter.protocol.messages import (
    RESUME_WITHIN_S,
    Message,
    Options,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResume,
)
from node.conftest import MakeHome, MakeNode, MakePair, Pair
from node.inside import unreachable
from node.processes import headless, share_with
from node.stub import PIECE, StubEngine
from node.waiting import until


def cut(pair: Pair) -> None:
    """As a network does: neither side meant it."""
    pair.asker_link._stream.abort()


async def linked_again(pair: Pair, before: Peer) -> None:
    await until(lambda: any(peer is not before for peer in pair.asker._rooms.links.peers))


@pytest.mark.parametrize("whose", ["asker's", "host's"])
async def test_a_cut_stream_goes_on_without_a_lost_or_doubled_token(make_pair: MakePair, whose: str) -> None:
    texts = tuple(f"{number}, " for number in range(300))
    pair = await make_pair(StubEngine(texts=texts, pause_s=0.002))
    stream = await pair.started()
    for _ in range(8):
        link = pair.asker_link
        (link if whose == "asker's" else pair.host_link)._stream.abort()
        await linked_again(pair, link)
        await asyncio.sleep(random.random() / 20)
    answer = await stream.complete()
    assert answer.text == "".join(texts)
    assert answer.usage.response_tokens == 300
    assert len(pair.engine.seen) == 1
    await until(lambda: [row.outcome for row in pair.host.ledger.rows()] == ["ok"])
    assert [row.outcome for row in pair.asker.ledger.rows()] == ["ok"]


async def test_a_reader_sees_that_the_link_is_sought(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    seen: list[Any] = []

    async def read() -> None:
        async for item in stream:
            seen.append(item)

    reading = asyncio.create_task(read())
    await until(lambda: seen)
    cut(allowed)
    await until(lambda: any("trying to get it back" in getattr(item, "note", "") for item in seen))
    allowed.engine.gate.set()
    await reading
    assert "".join(getattr(item, "text", "") for item in seen) == PIECE * 4


async def test_who_waits_in_line_keeps_his_place_over_a_cut(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1), running=1)
    pair.engine.hold()
    first = await pair.started()
    second = pair.ask("second")
    await until(lambda: second.status is not None and second.status.position == 1)
    link = pair.asker_link
    cut(pair)
    await linked_again(pair, link)
    await until(lambda: not second.away and second.status is not None and second.status.state == "queued")
    pair.engine.gate.set()
    assert [(await each.complete()).text for each in (first, second)] == [PIECE * 4] * 2
    assert len(pair.engine.seen) == 2


async def test_an_answer_that_ended_meanwhile_is_there(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    with monkeypatch.context() as away:
        unreachable(allowed.asker, away)
        cut(allowed)
        await until(lambda: stream.away)
        allowed.engine.gate.set()
        await until(lambda: not allowed.host.status().serving)
        assert stream.answer.text == PIECE
    assert (await stream.complete()).text == PIECE * 4
    assert stream.answer.finish_reason == "stop"


def collect(pair: Pair, request_id: str) -> AnswerStream:
    """Ask for an answer from its beginning, as a process does that did not send the request."""
    return pair.asker._rooms.requester.collect(
        next(peer for peer in pair.asker._rooms.links.peers if peer.node_id == pair.host_id),
        InferenceRequest(request_id, conversation("hello", None, (), ()), None, None, Options(), Clocks()),
        "anna",
        lambda _: None,
    )


async def test_a_finished_answer_can_be_collected_again_and_is_not_paid_twice(allowed: Pair) -> None:
    answer = await allowed.ask().complete()
    again = await collect(allowed, answer.request_id).complete()
    assert (again.text, again.usage, again.model) == (answer.text, answer.usage, answer.model)
    assert again.collected and again.timings.tokens_per_s is None and again.timings.first_token_s is None
    assert not answer.collected and answer.timings.first_token_s is not None
    assert len(allowed.engine.seen) == len(allowed.host.ledger.rows()) == 1


async def test_a_request_that_is_sent_twice_runs_once(allowed: Pair) -> None:
    first = await allowed.wire(messages=[{"role": "user", "content": "hello"}])
    second = await allowed.wire(messages=[{"role": "user", "content": "hello"}])
    assert first.text_sha256 == second.text_sha256 and second.text_sha256
    assert len(allowed.engine.seen) == 1


async def test_what_a_host_does_not_have_is_said(allowed: Pair) -> None:
    with pytest.raises(AnswerGone, match="Ask again"):
        await collect(allowed, "never-sent").complete()


async def test_an_answer_is_its_askers_alone_and_only_as_long_as_he_is_let_in(
    allowed: Pair, make_node: MakeNode
) -> None:
    answer = await allowed.ask().complete()
    carol = await make_node("carol")
    allowed.host.access.allow(carol.identity.node_id)
    await carol.connect(str(allowed.host.uri), name="anna")
    with pytest.raises(AnswerGone):
        await collect(Pair(allowed.host, carol, allowed.engine), answer.request_id).complete()
    allowed.host.access.deny("bob")
    with pytest.raises(AccessDenied):
        await collect(allowed, answer.request_id).complete()


async def test_an_index_beyond_what_was_said_is_refused(allowed: Pair) -> None:
    answer = await allowed.ask().complete()
    stream = collect(allowed, answer.request_id)
    allowed.asker_link.send(RemoteInferenceResume(answer.request_id, 10**6))
    with pytest.raises(InvalidRequest, match="beyond"):
        await stream.complete()


async def test_a_host_that_ended_fails_the_request_at_once_and_once(make_home: MakeHome, make_node: MakeNode) -> None:
    asker, home = await make_node("bob"), make_home("host")
    share_with(home, asker.identity.node_id)
    with headless(home) as host:
        peer = await asker.connect(host.uri)
        stream = asker.execute_ai_query("hello", peer.node_id)
        await until(lambda: stream.answer.text)
        host.process.send_signal(signal.SIGKILL)
        assert await until(lambda: stream.done) < 2
    with pytest.raises(PeerLost, match="its node has ended"):
        await stream.complete()
    assert [row.outcome for row in asker.ledger.rows()] == ["peer_lost"]


async def test_a_dead_askers_slot_is_anybodys_who_waits_within_2_s(make_home: MakeHome, make_node: MakeNode) -> None:
    engine, home = StubEngine(slots=1), make_home("asker")
    host, bob = await make_node("anna", engine, listen=True), await make_node("bob")
    for node_id in (home.load_identity().node_id, bob.identity.node_id):
        share_with(host.home, node_id)
    host.access.reload()
    engine.hold()
    with headless(home, "--ask", str(host.uri), "hello") as asker:
        await until(lambda: engine.running)
        await bob.connect(str(host.uri), name="anna")
        stream = bob.execute_ai_query("hello", "anna")
        await until(lambda: stream.status is not None and stream.status.state == "queued")
        asker.process.send_signal(signal.SIGKILL)
        assert await until(lambda: stream.status is not None and stream.status.state != "queued") < 2.5
    engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    await until(lambda: sorted(row.outcome for row in host.ledger.rows()) == ["ok", "peer_lost"])


async def test_a_request_whose_asker_stays_away_is_ended(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(allowed.asker, monkeypatch)
    monkeypatch.setattr("dpc_jupyter.node.serving.host.RESUME_WITHIN_S", 0.5)
    allowed.engine.hold()
    await allowed.started()
    cut(allowed)
    assert await until(lambda: not allowed.engine.running) > 0.4


async def test_a_stop_while_the_link_is_down_reaches_the_engine_when_it_is_back(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    with monkeypatch.context() as away:
        unreachable(allowed.asker, away)
        cut(allowed)
        await until(lambda: stream.away)
        stream.cancel()
        with pytest.raises(RequestCancelled):
            await stream.complete()
        assert stream.answer.text == PIECE and allowed.engine.running
    await allowed.asker.connect(allowed.host_id)
    await until(lambda: not allowed.engine.running, within_s=2)


async def test_who_hangs_up_in_order_does_not_come_back(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    await allowed.asker.disconnect("anna")
    with pytest.raises(PeerLost):
        await stream.complete()
    await until(lambda: not allowed.engine.running, within_s=2)


def test_kept_answers_are_bounded_by_number_size_and_time() -> None:
    now = [0.0]
    kept = KeptAnswers(lambda: now[0])

    def keep(node_id: str, number: int, chars: int = 1) -> None:
        request = RemoteInferenceRequest(request_id=str(number))
        serving = SimpleNamespace(request=request, said=[RemoteInferenceChunk(str(number), 0, "x" * chars)])
        kept.add(node_id, cast(Serving, serving))

    for number in range(KEEP_LIMIT + 2):
        keep("bob", number)
    keep("carol", 0)
    assert kept.get("bob", "1") is None and kept.get("bob", "2") is not None and kept.get("carol", "0") is not None
    keep("bob", 99, KEEP_LIMIT_BYTES // 2 - 100)
    assert [number for number in range(100) if kept.get("bob", str(number))] == [99]
    keep("bob", 100, KEEP_LIMIT_BYTES // 2)
    assert kept.get("bob", "99") is None and kept.get("bob", "100") is None
    now[0] = RESUME_WITHIN_S + 1
    kept.expire()
    assert kept.get("carol", "0") is None


def orphaned(node: CoreService) -> None:
    """As if the process that asked had ended: a pid that no process has."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    node.home.edit_asked(lambda entries: {known: entry | {"pid": dead.pid} for known, entry in entries.items()})
    node._rooms.unfinished.look()


@pytest.fixture
def noted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpc_jupyter.node.asking.asker.NOTE_AFTER_S", 0.0)


async def test_asking_the_same_after_a_crash_collects_the_answer(
    noted_at_once: None, allowed: Pair, make_node: MakeNode
) -> None:
    allowed.engine.hold()
    await allowed.started("why?")
    await until(allowed.asker.home.read_asked)
    orphaned(allowed.asker)
    (known,) = allowed.asker.unfinished()
    assert (known.host, known.host_name) == (allowed.host_id, "anna")
    heir = await make_node("bob again", home=allowed.asker.home)
    await heir.connect(str(allowed.host.uri))
    heirs = Pair(allowed.host, heir, allowed.engine)
    other, same = heirs.ask("another question"), heirs.ask("why?")
    allowed.engine.gate.set()
    assert [(await stream.complete()).text for stream in (other, same)] == [PIECE * 4] * 2
    assert len(allowed.engine.seen) == 2
    assert same.request.request_id == known.request_id != other.request.request_id
    await until(lambda: not heir.home.read_asked())


async def test_an_answer_is_collected_by_its_id_too(noted_at_once: None, allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started("why?")
    await until(allowed.asker.home.read_asked)
    allowed.engine.gate.set()
    cut(allowed)
    orphaned(allowed.asker)
    (known,) = allowed.asker.unfinished()
    await until(lambda: allowed.asker.peers())
    assert (await allowed.asker.collect(known.request_id).complete()).text == PIECE * 4
    with pytest.raises(InvalidRequest, match="%dpc_pending"):
        allowed.asker.collect("none-such")
    stream.cancel()


async def test_what_the_host_has_no_more_is_asked_anew(noted_at_once: None, allowed: Pair, make_node: MakeNode) -> None:
    allowed.engine.hold()
    lost = await allowed.started("why?")
    await until(allowed.asker.home.read_asked)
    noted = allowed.asker.home.read_asked()
    lost.cancel()
    await until(lambda: not (allowed.asker.home.read_asked() or allowed.host.status().serving))
    allowed.asker.home.edit_asked(lambda _: noted)
    orphaned(allowed.asker)
    allowed.engine.gate.set()
    heir = await make_node("bob again", home=allowed.asker.home)
    await heir.connect(str(allowed.host.uri))
    answer = await Pair(allowed.host, heir, allowed.engine).ask("why?").complete()
    assert answer.text == PIECE * 4 and not answer.collected
    assert len(allowed.engine.seen) == 2


async def test_a_living_process_keeps_its_own(noted_at_once: None, allowed: Pair) -> None:
    allowed.engine.hold()
    first = await allowed.started("why?")
    await until(allowed.asker.home.read_asked)
    second = await allowed.started("why?")
    assert first.request.request_id != second.request.request_id and not allowed.asker.unfinished()
    assert "why" not in (allowed.asker.home.path / "asked.json").read_text()
    allowed.engine.gate.set()
    for stream in (first, second):
        await stream.complete()
    await until(lambda: not allowed.asker.home.read_asked())


async def test_a_stop_waits_for_the_very_process_that_runs_the_request() -> None:
    """A user may run several under one identity, and another of them may be back first."""
    requester, sent = Requester("dpc-node-" + "a" * 32), list[tuple[str, Message]]()

    def link(session: str, *, closed: bool = False) -> Peer:
        send = partial(lambda *message: sent.append(message), session)
        return cast(Peer, SimpleNamespace(node_id="b", session=session, closed=closed, send=send))

    stream = requester.collect(link("serve", closed=True), InferenceRequest("1", ()), "anna", lambda _: None)
    stream.cancel()
    sent.clear()
    for session in ("notebook", "serve", "serve"):
        requester.resume(link(session))
    assert sent == [("serve", RemoteInferenceCancel("1"))]


async def test_a_link_that_breaks_while_the_model_is_looked_for_costs_nothing(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The access file lets the peer use named models, and which one it is is not known yet."""
    monkeypatch.setattr("dpc_jupyter.backends.registry.MISS_FRESH_S", -1.0)
    allowed.edit(lambda document: {**document, "compute": {**document["compute"], "allowed_models": ["new"]}})
    rules = allowed.host.access
    await until(lambda: not rules.rules.can_request_inference(allowed.asker_id, "", dt.datetime.now(dt.UTC)))
    allowed.engine.names, allowed.engine.list_pause_s = ("new",), 0.5
    stream = allowed.ask(model="new")
    await until(lambda: [each for each in allowed.host._rooms.host.servings if not each.model])
    cut(allowed)
    assert (await stream.complete()).text == PIECE * 4


async def test_what_is_sent_again_counts_against_the_nodes_frames(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed.engine.texts = ("x" * 300_000,)
    answer = await allowed.ask().complete()
    spent: list[float] = []
    spend = allowed.host._rooms.links.spend

    def counted(peer: Peer, frames: float) -> float:
        spent.append(frames)
        return spend(peer, frames)

    monkeypatch.setattr(allowed.host._rooms.links, "spend", counted)
    assert (await collect(allowed, answer.request_id).complete()).text == answer.text
    assert max(spent) > 300_000 / FRAME_BYTES - 1


async def test_a_host_that_comes_back_again_and_again_without_a_word_is_given_up(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    for _ in range(RETURNS_LIMIT):
        stream.wait_for_link("away")
        stream.link_is_back()
    assert not stream.done
    stream.take_delta("a word", "")
    stream.wait_for_link("away")
    stream.link_is_back()
    assert not stream.done
    for _ in range(RETURNS_LIMIT):
        stream.wait_for_link("away")
        stream.link_is_back()
    with pytest.raises(PeerLost, match="again and again"):
        await stream.complete()


async def test_a_host_that_was_started_again_is_named(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    host = allowed.host._rooms.host

    def knows_nothing(peer: Peer, request_id: str, _: int) -> None:
        host.refuse(peer, request_id, AnswerGone("This host has no such answer."))

    allowed.engine.hold()
    stream = await allowed.started()
    monkeypatch.setattr(host, "resume", knows_nothing)
    cut(allowed)
    with pytest.raises(PeerLost, match=r"was started again.*Partial text is kept"):
        await stream.complete()
    allowed.engine.gate.set()
