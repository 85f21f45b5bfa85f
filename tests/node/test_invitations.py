"""Invitations between real nodes: who gets in by one, who does not, and that it happens once."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter import firewall
from dpc_jupyter.errors import ConfigError, ConnectError, InvitationError
from dpc_jupyter.home import Home
from dpc_jupyter.node import invitations as module
from dpc_jupyter.node import joining
from dpc_jupyter.node.access import Access
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.invitations import INVITATIONS_LIMIT, Invitations
from dpc_jupyter.node.peer import Peer
from dpc_jupyter.node.status import NodeEvent
from dpc_jupyter.protocol.invitation import Invitation, proof
from dpc_jupyter.protocol.messages import InviteClaim, InviteResult
from node.conftest import MakeHome, MakeNode
from node.processes import headless
from node.stub import PIECE, StubEngine
from node.waiting import PATIENCE_S, until

DAVE = "dpc-node-" + "d" * 32
EventsOf = Callable[[CoreService], list[NodeEvent]]


@pytest.fixture
async def host(make_node: MakeNode) -> CoreService:
    """It listens and shares, and lets nobody in yet."""
    node = await make_node("lab", StubEngine(), listen=True)
    node.access.set_sharing(True)
    return node


@pytest.fixture
async def anna(make_node: MakeNode) -> CoreService:
    return await make_node("annas-laptop")


async def refused(joiner: CoreService, line: object) -> str:
    with pytest.raises(InvitationError) as error:
        await joiner.join(str(line))
    return str(error.value)


async def test_one_line_lets_in_whom_it_is_for_and_gives_her_models_at_once(
    host: CoreService, anna: CoreService, events_of: EventsOf
) -> None:
    events = events_of(host)
    line = str(host.invitations.make("anna", models=("stub-1",), expires="7d", limits=("running=1",)))
    joined = await anna.join(line)
    assert (joined.known_as, joined.sharing) == ("anna", True)
    assert [model.model for model in joined.host.models] == ["stub-1"]
    assert (await anna.execute_ai_query("hello", "lab").complete()).text == PIECE * 4
    rules, node_id = host.access.rules, anna.identity.node_id
    assert rules.name_of(node_id) == "anna" and rules.limits_for(node_id).running == 1
    week = dt.datetime.now(dt.UTC) + dt.timedelta(days=7)
    assert rules.is_known(node_id, week - dt.timedelta(minutes=1))
    assert not rules.is_known(node_id, week + dt.timedelta(minutes=1))
    (told,) = [event for event in events if event.kind == "peer_joined"]
    assert told.text == f"anna ({node_id}) has joined by invitation and is let in."
    (kept,) = host.invitations.all()
    assert (kept.state, kept.used_by, kept.name) == ("used", node_id, "anna")


async def test_a_host_is_known_under_its_name_or_the_one_that_the_joiner_gives(
    host: CoreService, make_node: MakeNode
) -> None:
    for given, name in ((None, "lab"), ("gpu", "gpu")):
        joiner = await make_node(f"joiner-{name}")
        await joiner.join(str(host.invitations.make(f"for-{name}")), name=given)
        assert joiner.directory.find(name, []) == host.identity.node_id
        await until(lambda joiner=joiner: host.identity.node_id in joiner.home.read_peers())


async def test_the_secret_is_in_no_frame_and_in_no_list(
    host: CoreService, anna: CoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    send = Peer.send
    monkeypatch.setattr(Peer, "send", lambda peer, message: (seen.append(message), send(peer, message))[1])
    invitation = host.invitations.make("anna")
    await anna.join(str(invitation))
    claims = [message for message in seen if isinstance(message, InviteClaim)]
    assert len(claims) == 1 and invitation.secret.hex() not in repr(seen)
    assert invitation.secret.hex() not in repr(host.invitations.all())
    assert invitation.secret.hex() not in (host.home.path / ".dpc_access.json").read_text()
    if os.name == "posix":
        assert stat.S_IMODE((host.home.path / "invitations.json").stat().st_mode) == 0o600


async def test_with_sharing_off_the_invitation_holds_and_the_joiner_is_told(
    host: CoreService, anna: CoreService, events_of: EventsOf
) -> None:
    line, events = str(host.invitations.make("anna")), events_of(host)
    host.access.set_sharing(False)
    joined = await anna.join(line)
    assert not joined.sharing and joined.host.models == ()
    assert [event.text for event in events if event.kind == "peer_joined"][0].endswith("is let in once sharing is on.")
    host.access.set_sharing(True)
    assert await anna.models("lab")


# Who does not get in.


async def test_a_used_invitation_is_refused_to_anybody_else(
    host: CoreService, anna: CoreService, make_node: MakeNode, events_of: EventsOf
) -> None:
    line, eve = str(host.invitations.make("anna")), await make_node("eve")
    await anna.join(line)
    events = events_of(host)
    assert await refused(eve, line) == joining.REFUSED
    (told,) = [event for event in events if event.kind == "join_refused"]
    assert told.text.endswith("was refused: the invitation of anna is used by anna.") and eve.identity.node_id in told.text
    assert not host.access.is_known(eve.identity.node_id)


async def test_the_same_node_may_use_its_invitation_again_until_its_permission_is_taken(
    host: CoreService, anna: CoreService
) -> None:
    line = str(host.invitations.make("anna", models=("stub-1",)))
    await anna.join(line)
    host.access.allow("anna", models=("stub-2",))
    before = (host.home.path / ".dpc_access.json").read_bytes()
    assert (await anna.join(line)).known_as == "anna"
    assert (host.home.path / ".dpc_access.json").read_bytes() == before
    host.access.deny("anna")
    assert await refused(anna, line) == joining.REFUSED
    assert not host.access.is_known(anna.identity.node_id)


async def test_whatever_is_wrong_the_refusal_is_the_same_and_the_owner_reads_why(
    host: CoreService, make_node: MakeNode, anna: CoreService, events_of: EventsOf
) -> None:
    good, eve = [host.invitations.make(f"guest-{number}") for number in range(5)], await make_node("eve")
    unknown = Invitation(good[0].node_id, "0" * 16, good[0].secret, good[0].addresses)
    wrong = Invitation(good[0].node_id, good[0].invite_id, bytes(16), good[0].addresses)
    await anna.join(str(good[1]))
    host.invitations.revoke("guest-2")
    entries = host.home.read_invitations()
    entries[good[3].invite_id]["valid_until"] = time.time() - 1
    entries[good[4].invite_id]["expires"] = "2026-01-01"
    host.home.edit_invitations(lambda _: entries)
    events, reasons = events_of(host), []
    for line in (unknown, wrong, good[1], good[2], good[3], good[4]):
        host._claim_told_at = float("-inf")
        assert await refused(eve, line) == joining.REFUSED
        reasons.append([event.text for event in events if event.kind == "join_refused"][-1].partition("refused: ")[2])
    assert reasons == [
        "there is no such invitation.",
        "the proof for the invitation of guest-0 was wrong.",
        "the invitation of guest-1 is used by guest-1.",
        "the invitation of guest-2 is revoked.",
        "the invitation of guest-3 is expired.",
        "2026-01-01 lies in the past: `deny` takes a permission back.",
    ]
    assert host.invitations.all()[4].state == "open", "what did not fit has used up nothing"


@pytest.mark.parametrize("work_s", [0.0, 0.6])
async def test_a_refusal_leaves_so_long_after_its_claim_however_long_the_disk_took(
    host: CoreService, anna: CoreService, monkeypatch: pytest.MonkeyPatch, work_s: float
) -> None:
    line, claim = host.invitations.make("anna"), Invitations.claim

    def slow(self: Invitations, *args: Any) -> Any:
        time.sleep(work_s)
        return claim(self, *args)

    monkeypatch.setattr(joining, "REFUSED_AFTER_S", 1.0)
    monkeypatch.setattr(Invitations, "claim", slow)
    host.invitations.revoke("anna")
    await anna.connect(str(host.uri))
    began = time.monotonic()
    await refused(anna, line)
    assert 1.0 <= time.monotonic() - began < 1.5
