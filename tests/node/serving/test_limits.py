"""What one peer may take of a host at most."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable

import pytest

from dpc_jupyter.errors import Busy, InferenceError
from dpc_jupyter.node.asking.answer import AnswerStream
from dpc_jupyter.node.links.peer import UNSENT_LIMIT_BYTES, Peer
from dpc_jupyter.node.serving.host import OPEN_LIMIT, OPEN_LIMIT_BYTES
from dpc_jupyter.protocol.connection import BadRequest, Event, _encode
from dpc_jupyter.protocol.framing import encode_frame
from dpc_jupyter.protocol.messages import (
    GetProviders,
    Message,
    ProvidersResponse,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
)
from dpc_jupyter.scheduling import FrameBudget
from node.conftest import MakeNode, MakePair, Pair
from node.inside import takes_of
from node.stub import PIECE, StubEngine
from node.waiting import until


async def refusal(stream: AnswerStream) -> str:
    with pytest.raises(Busy) as refused:
        await stream.complete()
    return str(refused.value)


async def test_what_is_over_running_and_queued_is_refused_at_once_with_the_reason(make_pair: MakePair) -> None:
    pair = await make_pair(running=1, queued=1)
    pair.engine.hold()
    running, waiting = await pair.started(), pair.ask()
    assert "1 running and 1 waiting requests" in await refusal(pair.ask())
    pair.engine.gate.set()
    assert (await running.complete()).text == (await waiting.complete()).text == PIECE * 4
    assert pair.engine.most_running == 1


async def test_requests_a_minute_are_counted(make_pair: MakePair) -> None:
    pair = await make_pair(requests_per_minute=2)
    for _ in range(2):
        await pair.ask().complete()
    assert "2 requests a minute, try again in" in await refusal(pair.ask())


async def test_tokens_a_day_are_counted_and_survive_a_restart(make_pair: MakePair, make_node: MakeNode) -> None:
    pair = await make_pair(tokens_per_day=15)
    for _ in range(2):  # 7 + 4 tokens each, so that the second begins below the limit
        await pair.ask().complete()
    assert "daily quota of 15 tokens" in await refusal(pair.ask())
    await pair.host.stop()
    again = await make_node("anna", pair.engine, listen=True, home=pair.host.home)
    await pair.asker.connect(str(again.uri))
    assert "daily quota of 15 tokens" in await refusal(pair.ask())


async def test_an_answer_that_is_stopped_before_its_end_counts_too(make_pair: MakePair) -> None:
    pair = await make_pair(tokens_per_day=5)
    pair.engine.tokens, pair.engine.pause_s = 1000, 0.001
    stream = await pair.started()
    await until(lambda: stream.answer.text.count(PIECE) >= 5)
    stream.cancel()
    await until(lambda: not pair.host.status().serving)
    assert "daily quota of 5 tokens" in await refusal(pair.ask())


async def test_a_host_that_cannot_count_refuses_without_telling_its_paths(make_pair: MakePair) -> None:
    pair = await make_pair(tokens_per_day=15)
    pair.host.ledger.error = f"The ledger {pair.host.home.path} cannot be written"
    with pytest.raises(Busy, match="cannot count your daily tokens") as refused:
        await pair.ask().complete()
    assert str(pair.host.home.path) not in str(refused.value)
    assert not pair.engine.seen


async def test_a_limit_that_is_raised_lets_a_waiting_request_run(make_pair: MakePair) -> None:
    pair = await make_pair(running=1)
    pair.engine.hold()
    await pair.started()
    waiting = pair.ask()
    await until(lambda: waiting.status is not None and waiting.status.state == "queued")
    pair.limit(running=2)
    await until(lambda: pair.engine.running == 2, within_s=1)


async def test_peers_take_turns(make_pair: MakePair, make_node: MakeNode) -> None:
    pair = await make_pair(StubEngine(slots=1), queued=8)
    carol = await make_node("carol")
    pair.host.access.allow(carol.identity.node_id)
    await carol.connect(str(pair.host.uri))
    pair.engine.hold()
    first = await pair.started()
    many = [pair.ask() for _ in range(5)]
    await until(lambda: many[-1].status is not None)
    one = carol.execute_ai_query("hello", pair.host_id)
    await until(lambda: one.status is not None)
    assert one.status is not None
    assert one.status.position in (1, 2)
    pair.engine.gate.set()
    for stream in (first, *many, one):
        await stream.complete()


async def test_2000_requests_at_once_cost_only_the_peer_that_sends_them(
    make_pair: MakePair, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await make_pair(running=2, queued=8, requests_per_minute=60_000)
    carol = await make_node("carol")
    pair.host.access.allow(carol.identity.node_id)
    await carol.connect(str(pair.host.uri))
    pair.engine.hold()
    clock = time.process_time  # what other programs take of the processor is not ours to promise
    arrived: dict[str, float] = {}
    refused_after_s: list[float] = []
    take_request, send, link = pair.host._rooms.host.take_request, pair.host_link.send, pair.host_link

    def take(peer: Peer, request: RemoteInferenceRequest) -> None:
        arrived[request.request_id] = clock()
        take_request(peer, request)
        assert len(pair.host._rooms.host.servings) <= OPEN_LIMIT + 1  # and the one of carol

    def note(message: Message) -> None:
        if isinstance(message, RemoteInferenceResponse):
            refused_after_s.append(clock() - arrived[message.request_id])
        send(message)

    monkeypatch.setattr(pair.host._rooms.host, "take_request", take)
    monkeypatch.setattr(link, "send", note)
    flood = [pair.ask() for _ in range(2000)]
    other = asyncio.create_task(carol.send_ai_query("hello", pair.host_id))
    await until(lambda: sum(stream.done for stream in flood) == 1990)
    assert len(refused_after_s) == 1990
    assert max(refused_after_s) < 0.5
    assert {type(stream.error) for stream in flood if stream.done} == {Busy}
    states = [serving.state for serving in pair.host.status().serving if serving.peer == pair.asker_id]
    assert (states.count("running"), states.count("queued")) == (2, 8)
    assert pair.engine.running == 3
    pair.engine.gate.set()
    assert (await other).text == PIECE * 4
    for stream in flood:
        if not stream.done:
            await stream.complete()


async def test_another_peer_gets_its_answer_while_one_peer_holds_all_it_may(
    make_pair: MakePair, make_node: MakeNode
) -> None:
    pair = await make_pair(running=2)
    carol = await make_node("carol")
    pair.host.access.allow(carol.identity.node_id)
    await carol.connect(str(pair.host.uri))
    pair.engine.hold()
    held = [pair.ask() for _ in range(10)]
    await until(lambda: pair.engine.running == 2)
    asked = asyncio.create_task(carol.send_ai_query("hello", pair.host_id))
    await until(lambda: pair.engine.running == 3)
    asked.cancel()
    for stream in held:
        stream.cancel()


async def test_a_flood_of_refused_requests_fills_neither_disk_nor_memory(make_pair: MakePair) -> None:
    pair = await make_pair(requests_per_minute=1)
    streams = [pair.ask() for _ in range(1000)]
    await until(lambda: all(stream.done for stream in streams))
    assert len([row for row in pair.host.ledger.rows() if row.role == "host"]) <= 100


async def test_a_flood_of_questions_for_the_models_is_answered_a_few_times(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = []
    peer_said = allowed.asker._rooms.links._node.peer_said

    def count(peer: Peer, message: Message | BadRequest) -> None:
        answers.extend([message] if isinstance(message, ProvidersResponse) else [])
        peer_said(peer, message)

    monkeypatch.setattr(allowed.asker._rooms.links._node, "peer_said", count)
    allowed.engine.list_pause_s = 0.1
    allowed.host._rooms.registry._snapshot = type(allowed.host._rooms.registry._snapshot)()  # nothing is fresh
    for _ in range(2000):
        allowed.asker_link.send(GetProviders())
    await until(lambda: answers)
    await allowed.wire(prompt="")  # answered after them
    assert len(answers) < 20


async def test_a_peer_that_asks_and_never_reads_is_cut_off(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(names=tuple(f"{number:0200}" for number in range(400))))
    pair.asker_link._stream._transport.pause_reading()  # type: ignore[attr-defined]
    link = pair.host_link
    while not link.closed:
        pair.asker_link.send(GetProviders())
        assert link._stream.unsent_bytes() < 2 * UNSENT_LIMIT_BYTES
        await asyncio.sleep(0.001)


async def test_both_ends_note_a_request_and_never_what_it_said(allowed: Pair) -> None:
    await allowed.ask("canary in the prompt", model="stub-2").complete()
    with pytest.raises(InferenceError):
        await allowed.ask("canary", model="none-such").complete()
    allowed.engine.hold()
    stream = await allowed.started()
    await stream.aclose()
    await until(lambda: not allowed.host.status().serving)
    for node, role, peer in ((allowed.host, "host", allowed.asker_id), (allowed.asker, "asker", allowed.host_id)):
        rows = node.ledger.rows()
        assert [(row.role, row.peer, row.outcome) for row in rows] == [
            (role, peer, "ok"),
            (role, peer, "not_found"),
            (role, peer, "cancelled"),
        ]
        assert (rows[0].model, rows[0].prompt_tokens, rows[0].response_tokens) == ("stub-2", 7, 4)
        with sqlite3.connect(node.ledger.path) as database:
            dump = "\n".join(database.iterdump())
        database.close()
        assert "canary" not in dump


async def test_a_peers_flood_of_frames_is_worked_off_in_turns(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    loop, began = asyncio.get_running_loop(), time.monotonic()
    told: list[str] = []
    monkeypatch.setattr(allowed.host._rooms.host, "cancel", lambda peer, request_id: told.append(request_id))
    monkeypatch.setattr(allowed.host._rooms.links, "_frames", FrameBudget(time.monotonic, 1e9, 1e9))
    flood = [RemoteInferenceCancel(f"none-{number}") for number in range(40_000)]
    frames = b"".join(encode_frame(_encode(message)) for message in flood)
    link = allowed.host_link

    def tick() -> None:
        turns.append(time.monotonic() - began)
        if len(told) < len(flood):
            loop.call_soon(tick)

    link.data_received(frames)
    first = len(told)
    loop.call_soon(tick)
    await until(lambda: len(told) == len(flood))
    assert 0 < first < len(flood), "the first turn takes a part"
    assert told == [message.request_id for message in flood], "nothing is lost, and the order holds"
    assert len(turns) > 10, "everyone else had turns between"


FLOOD = 40_000


def in_frames(message: Message) -> bytes:
    return encode_frame(_encode(message)) * FLOOD


@pytest.mark.parametrize("end", [Peer.close, Peer.abort, Peer.refuse])
async def test_what_comes_over_a_link_that_we_have_ended_is_dropped_unread(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch, end: Callable[[Peer, str], None]
) -> None:
    parsed: list[bytes] = []
    link = allowed.host_link

    def parse(data: bytes) -> list[Event]:
        parsed.append(data)
        return []

    monkeypatch.setattr(link._connection, "receive_data", parse)
    if end is Peer.refuse:
        monkeypatch.setattr(link._connection, "refuse", lambda sentence: None)  # as if it had just proved its id
    end(link, "enough")
    link.data_received(in_frames(RemoteInferenceCancel("none")))
    await asyncio.sleep(0.05)
    assert link.closed and parsed == [] and link._inbox == []


async def test_nothing_more_is_read_of_a_peer_that_floods_and_goes(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(allowed.host._rooms.host, "cancel", lambda peer, request_id: told.append(request_id))
    monkeypatch.setattr(allowed.host._rooms.links, "_frames", FrameBudget(time.monotonic, 1e9, 1e9))
    link = allowed.host_link
    link.data_received(in_frames(RemoteInferenceCancel("none")))
    first = len(told)
    link.stream_closed("it has gone")
    assert link.closed and 0 < len(told) == first < FLOOD


async def test_what_a_host_said_before_it_went_is_read_in_turns_to_the_end(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    turns = 0
    link, loop = allowed.asker_link, asyncio.get_running_loop()
    await allowed.ask().complete()
    monkeypatch.setitem(takes_of(allowed.asker), RemoteInferenceChunk, lambda _, chunk: told.append(chunk.index))

    def tick() -> None:
        nonlocal turns
        turns += 1
        if not link.closed:
            loop.call_soon(tick)

    link.data_received(in_frames(RemoteInferenceChunk("none", 0, "x")))
    link.stream_closed("it has gone")
    assert not link.closed and len(told) < FLOOD
    tick()
    await until(lambda: link.closed)
    assert len(told) == FLOOD, "an answer may end there"
    assert turns > 10, "everyone else had turns between"


async def test_a_host_that_floods_over_its_budget_and_goes_is_waited_for_no_longer(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await allowed.ask().complete()
    monkeypatch.setattr(allowed.asker._rooms.links, "_frames", FrameBudget(time.monotonic, 1.0, 20.0))
    allowed.asker_link.data_received(in_frames(RemoteInferenceCancel("none")))
    link = allowed.asker_link
    assert not link.closed
    link.stream_closed("it has gone")
    assert link.closed


async def test_a_nodes_flood_of_frames_waits_over_all_of_its_links_and_nothing_of_it_is_lost(
    allowed: Pair, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await make_node("bob too", home=allowed.asker.home)
    await second.connect(str(allowed.host.uri))
    carol = await make_node("carol")
    allowed.host.access.allow(carol.identity.node_id)
    await carol.connect(str(allowed.host.uri))
    await until(lambda: all(node.peers()[0].models for node in (second, carol)))
    per_s, at_once = 100.0, 50.0
    monkeypatch.setattr(allowed.host._rooms.links, "_frames", FrameBudget(time.monotonic, per_s, at_once))
    told: list[str] = []
    monkeypatch.setattr(allowed.host._rooms.host, "cancel", lambda peer, request_id: told.append(request_id))
    began = time.monotonic()
    links = (allowed.asker_link, second._rooms.links.peers[0])
    for number in range(200):
        links[number % 2].send(RemoteInferenceCancel(f"none-{number}"))
    taken_before_carol: list[int] = []
    asked = asyncio.create_task(carol.send_ai_query("hello", allowed.host_id))
    asked.add_done_callback(lambda _: taken_before_carol.append(len(told)))
    while len(told) < 200:
        assert len(told) <= at_once + per_s * (time.monotonic() - began) + 2  # each link goes one over at most
        await asyncio.sleep(0.005)
    assert taken_before_carol and taken_before_carol[0] < 200, "another node does not wait with it"
    assert sorted(told) == sorted(f"none-{number}" for number in range(200))


async def test_large_frames_count_for_more(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []
    spend = allowed.host._rooms.links.spend

    def count(peer: Peer, frames: float) -> float:
        spent.append(frames)
        return spend(peer, frames)

    monkeypatch.setattr(allowed.host._rooms.links, "spend", count)
    await allowed.ask("x" * 1_000_000).complete()
    assert 120 < sum(spent) < 140


async def test_an_answer_costs_its_asker_nothing_of_the_hosts_budget(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await make_pair(StubEngine(tokens=500, pause_s=0.0005))
    monkeypatch.setattr(pair.asker._rooms.links, "_frames", FrameBudget(time.monotonic, 1.0, 20.0))
    async with asyncio.timeout(5):
        assert (await pair.ask().complete()).text == PIECE * 500


async def test_prompts_that_are_open_are_bounded_by_bytes_over_all_links_of_a_node(
    make_pair: MakePair, make_node: MakeNode
) -> None:
    pair = await make_pair(running=2, queued=64)
    second = await make_node("bob too", home=pair.asker.home)
    await second.connect(str(pair.host.uri))
    carol = await make_node("carol")
    pair.host.access.allow(carol.identity.node_id)
    await carol.connect(str(pair.host.uri))
    pair.engine.hold()
    prompt = "x" * 1_000_000
    assert 8 * len(prompt) < OPEN_LIMIT_BYTES < 9 * len(prompt)
    held = [node.execute_ai_query(prompt, pair.host_id) for node in (pair.asker, second) for _ in range(4)]
    await until(lambda: len(pair.host.status().serving) == 8)
    for node in (pair.asker, second):
        reason = await refusal(node.execute_ai_query(prompt, pair.host_id))
        assert "8 MiB of your prompts are open at this host; try again when one has finished" in reason
    small, others = pair.ask(), carol.execute_ai_query(prompt, pair.host_id)
    await until(lambda: len(pair.host.status().serving) == 10)
    held[-1].cancel()
    await until(lambda: len(pair.host.status().serving) == 9)
    again = pair.ask(prompt)
    pair.engine.gate.set()
    for stream in (*held[:-1], small, others, again):
        assert (await stream.complete()).text == PIECE * 4


async def test_a_prompt_counts_as_what_it_takes_in_memory(allowed: Pair) -> None:
    """One emoji makes Python keep every character of its text in 4 bytes."""
    allowed.engine.hold()
    streams = [allowed.ask("x" * 1_000_000 + "\N{GRINNING FACE}") for _ in range(3)]
    await until(lambda: any(stream.done for stream in streams))
    assert "8 MiB of your prompts" in await refusal(streams[-1])
