"""Who is let in, who is not, and how soon a change of mind counts."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

import pytest

from dpc_jupyter import firewall
from dpc_jupyter.errors import AccessDenied, Busy, ConfigError, InferenceError, Revoked
from dpc_jupyter.firewall import Rules
from dpc_jupyter.node.watch import WATCH_EVERY_S
from dpc_jupyter.protocol.messages import GetProviders
from node.conftest import EventsOf, MakePair, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until

GENERIC = "Access denied: You are not authorized to request inference"


async def test_nothing_is_shared_by_default(stranger: Pair) -> None:
    with pytest.raises(AccessDenied, match=rf"^{GENERIC}\. Send its owner your node id: dpc-node-[0-9a-f]+$"):
        await stranger.ask().complete()
    assert not stranger.host.status().sharing


async def test_a_listed_peer_is_refused_while_sharing_is_off(allowed: Pair) -> None:
    allowed.host.access.set_sharing(False)
    with pytest.raises(AccessDenied, match=rf"^{GENERIC}\. Send its owner your node id: dpc-node-[0-9a-f]+$"):
        await allowed.ask().complete()
    assert not allowed.engine.seen


@pytest.mark.parametrize("asked", [{}, {"model": "stub-1"}, {"model": "none-such"}, {"provider": "stub"}])
async def test_a_stranger_gets_one_sentence_whatever_it_asks(stranger: Pair, asked: dict[str, str]) -> None:
    stranger.host.access.set_sharing(True)
    with pytest.raises(AccessDenied, match=rf"^{GENERIC}\. Send its owner your node id: dpc-node-[0-9a-f]+$"):
        await stranger.ask(**asked).complete()


async def test_a_stranger_sees_no_models_and_nothing_of_the_host(stranger: Pair) -> None:
    assert await stranger.asker.models(stranger.host_id) == ()
    assert not stranger.asker.status().serving


async def test_a_stranger_is_kept_for_the_owner_who_may_grant_it_by_its_id_alone(
    stranger: Pair, events_of: EventsOf
) -> None:
    events = events_of(stranger.host)
    with pytest.raises(AccessDenied):
        await stranger.ask(model="stub-1").complete()
    await until(stranger.host.access.pending)
    assert stranger.host.access.pending()[stranger.asker_id]["name"] == "bob"
    assert [event.kind for event in events] == ["access_requested"]
    stranger.host.access.set_sharing(True)
    with pytest.raises(ConfigError, match=f"is what {stranger.asker_id} calls itself"):
        stranger.host.access.allow("bob")
    assert stranger.host.access.allow(stranger.asker_id, name="bob") == stranger.asker_id
    assert stranger.host.access.pending() == {}
    await until(lambda: stranger.asker.peers()[0].models)
    assert (await stranger.ask().complete()).text == PIECE * 4


async def test_a_stranger_may_ask_once_a_second(stranger: Pair) -> None:
    streams = [stranger.ask() for _ in range(5)]
    outcomes: list[type[Exception]] = []
    for stream in streams:
        with pytest.raises(InferenceError) as refused:
            await stream.complete()
        outcomes.append(refused.type)
    assert outcomes == [AccessDenied, Busy, Busy, Busy, Busy]
    assert len(stranger.host.ledger.rows()) == 1


async def test_a_stranger_that_sends_too_many_messages_is_cut_off(stranger: Pair) -> None:
    for _ in range(40):
        stranger.ask()
    await until(lambda: not stranger.host.peers(), within_s=2)


async def test_a_stranger_that_is_let_in_is_counted_no_more(stranger: Pair) -> None:
    stranger.host.access.set_sharing(True)
    stranger.host.access.allow(stranger.asker_id)
    await until(lambda: stranger.asker.peers()[0].models)
    for _ in range(40):
        stranger.asker_link.send(GetProviders())
    assert (await stranger.ask().complete()).text == PIECE * 4


async def test_a_host_that_we_dialled_may_not_ask_us_without_limit(stranger: Pair) -> None:
    streams = [stranger.host.execute_ai_query("hello", stranger.asker_id) for _ in range(5)]
    outcomes: list[type[Exception]] = []
    for stream in streams:
        with pytest.raises(InferenceError) as refused:
            await stream.complete()
        outcomes.append(refused.type)
    assert outcomes == [AccessDenied, Busy, Busy, Busy, Busy]


async def test_a_model_that_is_not_allowed_is_refused_and_not_shown(allowed: Pair) -> None:
    allowed.host.access.allow("bob", models=("stub-1",))
    with pytest.raises(AccessDenied, match=f"^{GENERIC} for model stub-2$"):
        await allowed.ask(model="stub-2").complete()
    assert [offer.model for offer in await allowed.asker.models("anna")] == ["stub-1"]


async def test_a_peer_cannot_learn_which_other_models_exist(allowed: Pair) -> None:
    allowed.host.access.allow("bob", models=("stub-1",))
    with pytest.raises(AccessDenied, match=f"^{GENERIC} for model none-such$"):
        await allowed.ask(model="none-such").complete()


async def test_what_would_run_is_judged_not_what_was_said_and_before_it_waits(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(names=("stub-1", "stub:latest"), slots=1))
    pair.host.access.allow("bob", models=("stub-1", "stub"))
    pair.engine.hold()
    await pair.started(model="stub-1")
    with pytest.raises(AccessDenied, match=f"^{GENERIC} for model stub:latest$"):
        await pair.ask(model="stub").complete()


async def test_a_model_taken_away_while_the_request_waits_is_not_started(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1))
    pair.host.access.allow("bob", models=("stub-1", "stub-2"))
    pair.engine.hold()
    running, waiting = await pair.started(model="stub-1"), pair.ask(model="stub-2")
    await until(lambda: waiting.status is not None)
    pair.host.access.deny("bob", "stub-2")
    running.cancel()
    await until(lambda: waiting.done)
    assert isinstance(waiting.error, AccessDenied)
    assert [asked.model for asked in pair.engine.seen] == ["stub-1"]


async def test_naming_only_the_provider_runs_an_allowed_model_and_no_other(allowed: Pair) -> None:
    allowed.host.access.allow("bob", models=("stub-2",))
    assert (await allowed.ask(provider="stub").complete()).model == "stub-2"
    allowed.host.access.allow("bob", models=("none-such",))
    allowed.host.access.deny("bob", "stub-2")
    with pytest.raises(AccessDenied, match=GENERIC):
        await allowed.ask(provider="stub").complete()
    assert [asked.model for asked in allowed.engine.seen] == ["stub-2"]


async def test_an_edit_of_the_file_cuts_a_running_answer_within_a_second(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    assert allowed.asker.peers()[0].models
    allowed.host.home.edit_access(lambda document: firewall.deny(document, allowed.asker_id))
    assert await until(lambda: stream.done) < 1
    with pytest.raises(Revoked, match="owner has withdrawn the permission"):
        await stream.complete()
    assert stream.answer.text == PIECE
    await until(lambda: not allowed.asker.peers()[0].models, within_s=1)
    assert not allowed.engine.running


async def test_a_waiting_request_is_cut_by_an_edit_too(allowed: Pair) -> None:
    allowed.limit(running=1)
    allowed.engine.hold()
    await allowed.started()
    waiting = allowed.ask()
    await until(lambda: waiting.status is not None)
    allowed.host.home.edit_access(lambda document: firewall.deny(document, allowed.asker_id))
    await until(lambda: waiting.done, within_s=1)
    assert isinstance(waiting.error, Revoked)


async def test_an_edit_that_takes_another_model_leaves_the_running_one_alone(allowed: Pair) -> None:
    allowed.host.access.allow("bob", models=("stub-1", "stub-2"))
    allowed.engine.hold()
    stream = await allowed.started(model="stub-1")
    allowed.host.access.deny("bob", "stub-2")
    await until(lambda: len(allowed.asker.peers()[0].models) == 1)
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4


async def test_a_permission_that_runs_out_cuts_what_runs(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    until_when = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.8)
    allowed.host.access.allow("bob", expires=until_when.isoformat())
    await until(lambda: stream.done, within_s=2)
    assert dt.datetime.now(dt.UTC) >= until_when
    assert isinstance(stream.error, Revoked)


async def test_an_invalid_file_denies_all_names_line_and_column_and_mending_it_restores(
    allowed: Pair, events_of: EventsOf
) -> None:
    events = events_of(allowed.host)
    file = allowed.host.home.path / ".dpc_access.json"
    good = file.read_text()
    file.write_text('{"compute": {"enabled": true,\n  "allow_nodes": nobody}}')
    await until(lambda: allowed.host.status().access_error)
    assert "line 2, column 18" in (allowed.host.status().access_error or "")
    assert "line 2, column 18" in events[0].text
    with pytest.raises(AccessDenied):
        await allowed.ask().complete()
    with pytest.raises(ConfigError):
        allowed.host.access.allow(allowed.asker_id)
    file.write_text(good)
    await until(lambda: allowed.host.status().access_error is None)
    assert (await allowed.ask().complete()).text == PIECE * 4


async def test_a_file_that_could_not_be_read_for_a_moment_is_read_again(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(allowed.host.home, "read_access", lambda: Rules.deny_all("Too many open files"))
        allowed.host.access.reload()
    await until(lambda: allowed.host.status().access_error is None)
    assert (await allowed.ask().complete()).text == PIECE * 4


async def test_what_an_edit_came_to_is_told_and_what_is_written_anew_as_it_was_is_not(
    allowed: Pair, events_of: EventsOf
) -> None:
    events, home = events_of(allowed.host), allowed.host.home
    for change, told in (
        (lambda document: document, ""),
        (lambda document: firewall.set_enabled(document, False), "Sharing is off: nobody can ask this node."),
        (lambda document: firewall.set_enabled(document, True), "Sharing is on."),
        (lambda document: firewall.set_paused(document, True), "Sharing is paused."),
        (lambda document: firewall.set_paused(document, False), "Sharing goes on."),
        (lambda document: {**document, "_comment": "mine"}, "The access file has changed."),
    ):
        home.edit_access(change)
        await asyncio.sleep(3 * WATCH_EVERY_S)
        assert [event.text for event in events if event.kind == "access_changed"] == ([told] if told else [])
        events.clear()


async def test_a_removed_file_denies_all(allowed: Pair) -> None:
    await asyncio.sleep(3 * WATCH_EVERY_S)  # the watch saw that there is one
    (allowed.host.home.path / ".dpc_access.json").unlink()
    await until(lambda: not allowed.host.status().sharing)
    with pytest.raises(AccessDenied):
        await allowed.ask().complete()


async def test_the_owner_is_told_which_line_decides(allowed: Pair) -> None:
    assert allowed.host.access.explain("bob", "stub-1").allowed
    allowed.host.access.deny("bob")
    decision = allowed.host.access.explain(allowed.asker_id)
    assert not decision.allowed
    assert decision.line is not None


@pytest.mark.parametrize("span", ["30m", "12h", "7d", "2w"])
async def test_an_end_may_be_given_as_a_span(stranger: Pair, span: str) -> None:
    stranger.host.access.set_sharing(True)
    stranger.host.access.allow(stranger.asker_id, expires=span)
    assert stranger.host.access.is_known(stranger.asker_id)


async def test_two_nodes_cannot_be_given_one_name(stranger: Pair) -> None:
    stranger.host.access.allow(stranger.asker_id, name="bob")
    with pytest.raises(ConfigError, match="another node"):
        stranger.host.access.allow("dpc-node-" + "e" * 32, name="bob")


async def test_an_end_that_is_none_is_refused_with_those_that_are(stranger: Pair) -> None:
    with pytest.raises(ConfigError, match="12h, 7d, a date such as"):
        stranger.host.access.allow(stranger.asker_id, expires="tomorrow")


async def test_a_flood_of_strangers_is_noted_in_few_writes(stranger: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    note = stranger.host.home.note_all_pending

    def count(asked: dict[str, tuple[str, str, float]]) -> bool:
        writes.append(len(asked))
        return note(asked)

    monkeypatch.setattr(stranger.host.home, "note_all_pending", count)
    peer, refused = stranger.host_link, stranger.host._rooms.host._refused
    for number in range(500):
        monkeypatch.setattr(peer, "node_id", f"dpc-node-{number:032x}")
        refused(peer, "m")
    monkeypatch.setattr(peer, "node_id", stranger.asker_id)
    await until(lambda: writes)
    assert len(writes) == 1 and writes[0] <= 100


async def test_a_name_that_nobody_bears_is_not_allowed(stranger: Pair) -> None:
    with pytest.raises(ConfigError, match="No node is called 'carol' here"):
        stranger.host.access.allow("carol")


async def test_a_fault_while_the_file_is_looked_at_ends_no_enforcement(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reconsider, failed = allowed.host._rooms.relays.reconsider, list[bool]()

    def fails_once() -> None:
        if not failed:
            failed.append(True)
            raise RuntimeError("a fault that nobody thought of")
        reconsider()

    monkeypatch.setattr(allowed.host._rooms.relays, "reconsider", fails_once)
    await until(lambda: failed)
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.host.home.edit_access(lambda document: firewall.set_enabled(document, False))
    with pytest.raises(Revoked):
        await stream.complete()
    assert "a fault that nobody thought of" in caplog.text
    caplog.clear()


async def test_what_is_written_is_written_in_order(allowed: Pair) -> None:
    """A question is noted before it is forgotten, whichever of the two waits longer for the disk."""
    written: list[int] = []

    def write(number: int) -> None:
        time.sleep(0.05 / (number + 1))
        written.append(number)

    for number in range(8):
        allowed.asker._rooms.writes.add(write, number)
    await until(lambda: len(written) == 8)
    assert written == [*range(8)]


async def test_who_was_let_in_meanwhile_is_pending_no_more(stranger: Pair) -> None:
    """Whether it asked for a model or for any, and may use but some."""
    access, home = stranger.host.access, stranger.host.home
    home.note_pending(stranger.asker_id, "bob", "", 1.0)
    assert stranger.asker_id in access.pending()
    home.edit_access(lambda document: firewall.allow(document, stranger.asker_id, models=("stub-1",)))
    access.reload()
    assert not access.pending()
