"""What a node shows and tells."""

from __future__ import annotations

from functools import partial

import pytest

from dpc_jupyter import firewall
from dpc_jupyter.errors import AccessDenied
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.status import NodeEvent
from node.conftest import EventsOf, MakePair, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until


async def test_a_status_shows_links_and_requests_at_both_ends(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1))
    pair.engine.hold()
    await pair.started(model="stub-1")
    waiting = pair.ask(model="stub-2")
    await until(lambda: waiting.status is not None)
    here, there = pair.host.status(), pair.asker.status()
    assert (here.node_id, here.name, here.sharing, here.uri) == (pair.host_id, "anna", True, str(pair.host.uri))
    assert (here.access_error, here.ledger_error, there.uri) == (None, None, None)
    assert [(peer.name, peer.dialled, peer.kind, peer.extended) for peer in there.peers] == [
        ("anna", True, "TLS", True)
    ]
    assert [(peer.name, peer.dialled) for peer in here.peers] == [("bob", False)]
    expected = [("stub-1", "running", None), ("stub-2", "queued", 1)]
    assert [(request.model, request.state, request.position) for request in here.serving] == expected
    assert [(request.model, request.state, request.position) for request in there.asking] == expected
    assert all(request.waited_s >= 0 for request in (*here.serving, *there.asking))
    assert not here.asking
    assert not there.serving


async def test_links_tell_when_they_open_and_close(allowed: Pair, events_of: EventsOf) -> None:
    here, there = events_of(allowed.host), events_of(allowed.asker)
    await allowed.asker.disconnect("anna")
    await until(lambda: here and there)
    assert (here[0].kind, here[0].node_id) == (there[0].kind, allowed.asker_id) == ("peer_closed", allowed.asker_id)
    assert here[0].text.startswith("bob disconnected: ")
    await allowed.asker.connect("anna")
    await until(lambda: "models_changed" in [event.kind for event in there])
    assert "peer_connected" in [event.kind for event in here]


async def test_an_edit_tells_the_owner_and_the_peer(allowed: Pair, events_of: EventsOf) -> None:
    here, there = events_of(allowed.host), events_of(allowed.asker)
    allowed.host.home.edit_access(lambda document: firewall.allow(document, allowed.asker_id, models=("stub-2",)))
    await until(lambda: here and there, within_s=1)
    assert (here[0].kind, there[0].kind) == ("access_changed", "models_changed")
    assert [offer.model for offer in allowed.asker.peers()[0].models] == ["stub-2"]


async def test_whoever_unsubscribes_hears_no_more(allowed: Pair) -> None:
    events: list[NodeEvent] = []
    unsubscribe = allowed.asker.subscribe(events.append)
    unsubscribe()
    unsubscribe()
    await allowed.asker.disconnect("anna")
    await until(lambda: not allowed.host.peers())
    assert events == []


async def toggled(host: CoreService, *states: bool) -> None:
    """Edit the access file by hand, each time once the last edit was seen."""
    for enabled in states:
        host.home.edit_access(partial(firewall.set_enabled, enabled=enabled))
        await until(lambda enabled=enabled: host.access.rules.enabled is enabled, within_s=1)  # type: ignore[misc]


async def test_a_subscriber_that_fails_stops_neither_links_nor_revocation(allowed: Pair) -> None:
    def fails(event: NodeEvent) -> None:
        raise ZeroDivisionError

    allowed.host.subscribe(fails)
    events: list[NodeEvent] = []
    allowed.host.subscribe(events.append)
    for paused in (True, False):
        allowed.host.home.edit_access(partial(firewall.set_paused, paused=paused))
        await until(lambda paused=paused: allowed.host.access.rules.paused is paused)  # type: ignore[misc]
    assert [event.kind for event in events] == ["access_changed"] * 2
    allowed.engine.hold()
    stream = await allowed.started()
    await toggled(allowed.host, True, False)
    await until(lambda: stream.done, within_s=1)


async def test_an_engine_that_fails_to_list_stops_neither_links_nor_revocation(allowed: Pair) -> None:
    allowed.engine.list_error = ZeroDivisionError()
    allowed.host._rooms.registry._fresh_s = 0
    await toggled(allowed.host, False, True, False)


async def test_an_engine_that_hangs_does_not_delay_a_revocation(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.engine.list_pause_s = 30
    allowed.host._rooms.registry._fresh_s = 0
    allowed.host.home.edit_access(lambda document: firewall.allow(document, allowed.asker_id, name="bobby"))
    await until(lambda: allowed.host.directory.name_of(allowed.asker_id) == "bobby", within_s=1)
    allowed.host.home.edit_access(lambda document: firewall.deny(document, allowed.asker_id))
    assert await until(lambda: stream.done) < 1


async def test_names_and_models_of_a_peer_cannot_act_on_a_terminal(make_pair: MakePair, events_of: EventsOf) -> None:
    pair = await make_pair(StubEngine(names=("\x1b[2Jevil\n\u202e",)))
    events = events_of(pair.host)
    with pytest.raises(AccessDenied):
        pair.host.access.set_sharing(False)
        await pair.ask(model="\x1b]0;x\x07m\nodel").complete()
    await until(lambda: [event for event in events if event.kind == "access_requested"])
    shown = [offer.model for offer in pair.asker.peers()[0].models] + [event.text for event in events]
    assert all(text.isprintable() for text in shown)


async def test_the_models_of_this_machine_are_listed_without_permission(allowed: Pair) -> None:
    assert [offer.model for offer in await allowed.host.models()] == ["stub-1", "stub-2"]
    assert await allowed.asker.models("local") == ()


async def test_asking_this_machine_needs_no_link(allowed: Pair) -> None:
    answer = await allowed.host.send_ai_query("hello", None, model="stub-2")
    assert (answer.text, answer.host, answer.host_name, answer.model) == (PIECE * 4, "local", "this machine", "stub-2")
    allowed.engine.finishes = False
    assert (await allowed.host.send_ai_query("hello", "local", timeout_s=2)).text == PIECE * 4
    allowed.engine.hold()
    stream = allowed.host.execute_ai_query("hello")
    await until(lambda: stream.answer.text)
    await stream.aclose()
    assert await until(lambda: not allowed.engine.running) < 1


async def test_a_stranger_can_neither_forge_a_line_nor_pass_as_a_friend_in_the_news(
    stranger: Pair, events_of: EventsOf
) -> None:
    events = events_of(stranger.host)
    stranger.host._rooms.news._told_at.clear()
    stranger.asker_link.close("bye.\n12:00:01 anna asked and was refused.")
    await until(lambda: [event for event in events if event.kind == "peer_closed"])
    assert all(event.text.isprintable() for event in events)
    assert f"({stranger.asker_id}, not let in)" in events[-1].text


async def test_a_request_that_names_no_model_is_shown_with_the_one_it_gets_and_counts_what_came(allowed: Pair) -> None:
    await allowed.asker.models(allowed.host_id)
    allowed.engine.hold(free=2)
    stream = allowed.ask()
    await until(lambda: stream.answer.text == PIECE * 2)
    assert [(each.model, each.tokens) for each in allowed.asker.status().asking] == [("stub-1", stream.pieces)]
    stream.cancel()
    allowed.asker.ledger.flush()
    assert [(row.outcome, row.response_tokens) for row in allowed.asker.ledger.rows()] == [("cancelled", stream.pieces)]
