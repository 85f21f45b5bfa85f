"""Invitations between real nodes: who gets in by one, who does not, and that it happens once."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import gc
import os
import stat
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from dpc_jupyter import firewall
from dpc_jupyter.errors import (
    AccessDenied,
    ConfigError,
    ConnectError,
    HandshakeError,
    InvitationError,
    PeerLost,
    PeerNotConnected,
)
from dpc_jupyter.home import Home
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.joining import claims as joining
from dpc_jupyter.node.joining import invitations as module
from dpc_jupyter.node.joining import whereabouts
from dpc_jupyter.node.joining.invitations import INVITATIONS_LIMIT, Invitations
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.reaching.network import set_hub
from dpc_jupyter.node.serving.access import Access
from dpc_jupyter.protocol.invitation import Invitation, proof
from dpc_jupyter.protocol.messages import Ext, InviteClaim, InviteResult, Message
from dpc_jupyter.wording import invited
from node.conftest import EventsOf, MakeHome, MakeNode
from node.inside import takes_of
from node.processes import headless
from node.stub import PIECE, StubEngine
from node.waiting import PATIENCE_S, until

DAVE = "dpc-node-" + "d" * 32


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
        await joiner._rooms.writes.finish()
        assert joiner.home.read_peers()[host.identity.node_id]["name"] == name


async def test_the_secret_is_in_no_frame_and_in_no_list(
    host: CoreService, anna: CoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    send = Peer.send

    def recorded(peer: Peer, message: Message) -> None:
        seen.append(message)
        send(peer, message)

    monkeypatch.setattr(Peer, "send", recorded)
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
    assert next(event.text for event in events if event.kind == "peer_joined").endswith("is let in once sharing is on.")
    host.access.set_sharing(True)
    assert await anna.models("lab")


async def test_who_joins_is_no_stranger_and_has_models_in_all_her_notebooks_before_any_file_is_looked_at(
    make_node: MakeNode, anna: CoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc_jupyter.node.watch.WATCH_EVERY_S", 600.0)
    host = await make_node("slow-lab", StubEngine(), listen=True)
    host.access.set_sharing(True)
    other = await make_node("annas-other-notebook", home=anna.home)
    await other.connect(str(host.uri))
    assert all(peer.stranger for peer in host._rooms.links.peers)
    await anna.join(str(host.invitations.make("anna")))
    assert len(host.peers()) == 2 and not any(peer.stranger for peer in host._rooms.links.peers)
    await until(lambda: other.peers()[0].models)


# Who does not get in.


async def test_a_used_invitation_is_refused_to_anybody_else(
    host: CoreService, anna: CoreService, make_node: MakeNode, events_of: EventsOf
) -> None:
    line, eve = str(host.invitations.make("anna")), await make_node("eve")
    await anna.join(line)
    events = events_of(host)
    assert await refused(eve, line) == joining.REFUSED
    (told,) = [event for event in events if event.kind == "join_refused"]
    assert (
        told.text.endswith("was refused: the invitation of anna is used by anna.") and eve.identity.node_id in told.text
    )
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
        host._rooms.news._told_at.clear()
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


def files_of(home: Home) -> dict[str, bytes]:
    """What an owner's decisions are, as bytes."""
    names = (".dpc_access.json", "invitations.json", "pending.json")
    return {name: (home.path / name).read_bytes() for name in names if (home.path / name).exists()}


async def claim_raw(link: Peer, invite_id: str, proof_: str) -> InviteResult:
    """Say it over a link, whatever it is, and wait for the answer."""
    answered: asyncio.Future[InviteResult] = asyncio.get_running_loop().create_future()
    owner = link._owner

    class Ear:
        def __getattr__(self, name: str) -> Any:
            return getattr(owner, name)

        def peer_said(self, peer: Peer, message: object) -> None:
            if isinstance(message, InviteResult) and not answered.done():
                answered.set_result(message)

    link._owner = Ear()
    try:
        link.send(InviteClaim(invite_id, proof_))
        async with asyncio.timeout(PATIENCE_S):
            return await answered
    finally:
        link._owner = owner


def link_to(node: CoreService, other: CoreService) -> Peer:
    return next(peer for peer in node._rooms.links.peers if peer.node_id == other.identity.node_id)


def made_for(invitation: Invitation, joiner: CoreService, binding: bytes) -> str:
    return proof(invitation.secret, binding, joiner.identity.node_id, invitation.node_id, invitation.invite_id)


async def test_a_recorded_proof_serves_on_no_other_link(host: CoreService, anna: CoreService) -> None:
    invitation = host.invitations.make("anna")
    await anna.connect(str(host.uri))
    recorded = made_for(invitation, anna, link_to(anna, host).binding)
    await anna.disconnect(host.identity.node_id)
    await until(lambda: not host.peers())
    await anna.connect(str(host.uri))
    assert (await claim_raw(link_to(anna, host), invitation.invite_id, recorded)).status == "refused"
    assert host.invitations.all()[0].state == "open"
    fresh = made_for(invitation, anna, link_to(anna, host).binding)
    assert (await claim_raw(link_to(anna, host), invitation.invite_id, fresh)).status == "ok"


async def test_a_proof_serves_from_no_other_node(host: CoreService, anna: CoreService, make_node: MakeNode) -> None:
    """Whoever could see what Anna sends, and sends it by its own link, even with that link's binding known to her."""
    invitation, eve = host.invitations.make("anna"), await make_node("eve")
    await anna.connect(str(host.uri))
    await eve.connect(str(host.uri))
    binding = link_to(eve, host).binding
    assert binding != link_to(anna, host).binding
    for hers in (link_to(anna, host).binding, binding):
        stolen = made_for(invitation, anna, hers)
        assert (await claim_raw(link_to(eve, host), invitation.invite_id, stolen)).status == "refused"
    assert host.invitations.all()[0].state == "open"


async def test_another_host_at_the_address_learns_nothing_and_the_next_address_is_tried(
    host: CoreService, anna: CoreService, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody in the middle has a certificate of his own: its key is not the host's, so not a byte is said to him."""
    evil, heard = await make_node("evil", listen=True), []
    monkeypatch.setitem(takes_of(evil), InviteClaim, lambda *said: heard.append(said))
    assert evil.uri is not None
    made = host.invitations.make("anna")
    middle = Invitation(made.node_id, made.invite_id, made.secret, (f"127.0.0.1:{evil.uri.port}",))
    with pytest.raises(HandshakeError, match="Nothing was sent"):
        await anna.join(str(middle))
    both = Invitation(made.node_id, made.invite_id, made.secret, ("127.0.0.1:1", *middle.addresses, *made.addresses))
    assert (await anna.join(str(both))).known_as == "anna"
    assert not heard and not evil.peers()


async def test_a_proof_for_one_host_is_none_for_another(
    host: CoreService, anna: CoreService, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is claimed at passes the claim on, in its own name, to one that has such an invitation, too."""
    evil, passed = await make_node("evil", listen=True), []
    monkeypatch.setitem(takes_of(evil), InviteClaim, lambda _, claim: passed.append(claim))
    good = host.invitations.make("anna")
    assert evil.uri is not None
    trap = Invitation(evil.identity.node_id, good.invite_id, good.secret, (f"127.0.0.1:{evil.uri.port}",))
    with pytest.raises(ConnectError, match="Use the same invitation again"):
        await anna.join(str(trap), timeout_s=0.5)
    await evil.connect(str(host.uri))
    assert (await claim_raw(link_to(evil, host), good.invite_id, passed[0].proof)).status == "refused"


async def test_two_who_join_at_once_by_one_line_are_one_who_is_in(
    host: CoreService, anna: CoreService, make_node: MakeNode
) -> None:
    eve = await make_node("eve")
    for number in range(5):
        line = str(host.invitations.make(f"guest-{number}"))
        for joiner in (anna, eve):
            await joiner.connect(str(host.uri))
        done = await asyncio.gather(anna.join(line), eve.join(line), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["InvitationError", "JoinedHost"]
        listed = host.home.read_access().document["compute"]["allow_nodes"]
        assert len(listed) == 1 and listed[0] == host.invitations.all()[-1].used_by
        host.access.deny(listed[0])


async def test_two_notebooks_of_one_user_join_at_once_and_both_are_in(
    host: CoreService, anna: CoreService, make_node: MakeNode
) -> None:
    line, other = str(host.invitations.make("anna")), await make_node("annas-other-notebook", home=anna.home)
    for joined in await asyncio.gather(anna.join(line), other.join(line)):
        assert joined.known_as == "anna" and joined.host.models
    assert host.access.rules.document["compute"]["allow_nodes"] == [anna.identity.node_id]


async def test_two_host_processes_of_one_home_let_one_of_two_in(
    make_home: MakeHome, anna: CoreService, make_node: MakeNode
) -> None:
    home, eve = make_home("shared-home"), await make_node("eve")
    access = Access(home)
    access.set_sharing(True)
    with headless(home) as one, headless(home) as two:
        invitations = Invitations(home, access)
        for number in range(3):
            made = invitations.make(f"guest-{number}")
            ports = {address.rpartition(":")[2] for address in made.addresses}
            assert ports == {host.uri.partition("?")[0].rpartition(":")[2] for host in (one, two)}
            lines = [str(only_at(made, address)) for address in made.addresses]
            for joiner, line in zip((anna, eve), lines, strict=True):
                with suppress(PeerNotConnected):
                    await joiner.disconnect(made.node_id)
                await joiner.connect(f"dpc://{Invitation.parse(line).addresses[0]}?node_id={made.node_id}")
            done = await asyncio.gather(anna.join(lines[0]), eve.join(lines[1]), return_exceptions=True)
            assert sorted(type(each).__name__ for each in done) == ["InvitationError", "JoinedHost"]
            (listed,) = home.read_access().document["compute"]["allow_nodes"]
            home.edit_access(functools.partial(firewall.deny, node_id=listed))
            access.reload()
        for host in (one, two):
            host.kill()
        with pytest.raises(InvitationError, match="No node of this home listens"):
            invitations.make("late")


def only_at(made: Invitation, address: str) -> Invitation:
    return Invitation(made.node_id, made.invite_id, made.secret, (address,))


# Guesses.

GUESSES = 10_000


async def test_ten_thousand_guesses_find_nothing_and_leave_nothing(host: CoreService) -> None:
    invitation, before = host.invitations.make("anna"), files_of(host.home)
    await asyncio.to_thread(_guess, host.invitations, invitation, 100)  # what Python keeps once
    gc.collect()
    tracemalloc.start()
    base, began = tracemalloc.get_traced_memory()[0], time.monotonic()
    await asyncio.to_thread(_guess, host.invitations, invitation, GUESSES)
    took_s = time.monotonic() - began
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - base
    tracemalloc.stop()
    print(f"{GUESSES} guesses: {took_s:.1f} s, {grown} bytes more")
    assert files_of(host.home) == before and grown < 64 * 1024
    assert host.invitations.all()[0].state == "open"


def _guess(invitations: Invitations, invitation: Invitation, times: int) -> None:
    found = []
    for number in range(times):
        with suppress(InvitationError):
            invite_id = invitation.invite_id if number % 2 else f"{number:016x}"
            found.append(invitations.claim(invite_id, f"{number:064x}", bytes(64), DAVE))
    assert not found


async def test_a_stranger_gets_few_guesses_and_ten_thousand_over_a_link_cost_the_host_no_memory(
    host: CoreService, anna: CoreService, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    examined: list[str] = []
    claim = host.invitations.claim

    def counted(*args: Any) -> Any:
        examined.append(args[1])
        return claim(*args)

    monkeypatch.setattr(host.invitations, "claim", counted)
    invitation, before = host.invitations.make("anna"), files_of(host.home)
    eve = await make_node("eve")
    await eve.connect(str(host.uri))
    link = link_to(eve, host)
    for number in range(GUESSES):
        link.send(InviteClaim(invitation.invite_id, f"{number:064x}"))
    await until(lambda: link.closed and not host.peers() and not host._rooms.claims._answering)
    assert len(examined) == 1, "one at a time, and its link is cut long before the next"
    host.home.edit_access(lambda document: firewall.allow(document, eve.identity.node_id))
    host.access.reload()
    before = files_of(host.home)
    await eve.connect(str(host.uri))
    link, answered = link_to(eve, host), []
    monkeypatch.setitem(takes_of(eve), InviteResult, lambda _, result: answered.append(result))
    for number in range(GUESSES):
        link.send(InviteClaim(invitation.invite_id, f"{number:064x}"))
    await until(lambda: len(answered) == GUESSES)
    assert {(each.status, each.error) for each in answered} == {("refused", joining.REFUSED)}
    assert len(examined) < 1 + GUESSES / 100
    assert files_of(host.home) == before and not host._rooms.claims._tasks
    assert (await anna.join(str(invitation))).known_as == "anna"


# What goes wrong on the way.


@pytest.mark.parametrize("crash", [KeyboardInterrupt, ConfigError])
async def test_a_crash_behind_the_grant_leaves_no_invitation_that_can_be_used_again(
    host: CoreService, monkeypatch: pytest.MonkeyPatch, crash: type[BaseException]
) -> None:
    invitation, binding = host.invitations.make("anna"), bytes(64)

    def claim(node_id: str) -> module.Joined:
        made = proof(invitation.secret, binding, node_id, invitation.node_id, invitation.invite_id)
        return Invitations(host.home, Access(host.home)).claim(invitation.invite_id, made, binding, node_id)

    def fail(*_: object) -> None:
        raise crash("the process ends here")

    with monkeypatch.context() as patched:
        patched.setattr(Home, "edit_invitations", fail)
        with suppress(KeyboardInterrupt):
            claim(DAVE)
    assert "used_by" not in host.home.read_invitations()[invitation.invite_id]
    assert host.home.read_access().is_known(DAVE, dt.datetime.now(dt.UTC))
    host.access.reload()
    assert host.invitations.all()[0].state == "used"
    with pytest.raises(InvitationError, match="is used by anna"):
        claim("dpc-node-" + "e" * 32)
    assert claim(DAVE).again


async def test_a_crash_before_the_grant_leaves_the_invitation_as_it_was(
    host: CoreService, anna: CoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, before = str(host.invitations.make("anna")), files_of(host.home)

    def fail(*_: object) -> None:
        raise ConfigError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Home, "_write_bytes", fail)
        assert await refused(anna, line) == joining.REFUSED
    assert files_of(host.home) == before
    assert (await anna.join(line)).known_as == "anna"


async def test_a_link_that_is_lost_before_the_answer_costs_no_invitation(
    host: CoreService, anna: CoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = str(host.invitations.make("anna"))
    with monkeypatch.context() as patched:
        patched.setattr(host._rooms.claims, "_joined", lambda peer, _: peer.abort("the cable"))
        with pytest.raises(PeerLost, match="Use the same invitation again"):
            await anna.join(line)
    assert (await anna.join(line)).known_as == "anna"


async def test_a_host_that_knows_no_invitations_is_named_with_the_way_that_it_knows(
    host: CoreService, anna: CoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = str(host.invitations.make("anna"))
    monkeypatch.setattr(host._rooms.links, "_ext", Ext(1, host.session, stream=True, resume=True))
    assert await refused(anna, line) == (
        "lab runs a dpc-jupyter that knows no invitations: its owner updates it, or lets in your node id: "
        f"{anna.identity.node_id}"
    )
    assert host.invitations.all()[0].state == "open"


async def test_a_malformed_line_reaches_nobody_and_ones_own_is_no_way_to_oneself(
    host: CoreService, anna: CoreService
) -> None:
    line = str(host.invitations.make("anna"))
    for wrong in ("", "anna", line[:-3], f"{line}A", str(host.uri)):
        assert "Copy the whole line" in await refused(anna, wrong)
    assert not anna.known() and host.invitations.all()[0].state == "open"
    assert "of your own node" in await refused(host, line)


async def test_when_no_address_answers_all_are_named_and_the_line_stays_good(
    host: CoreService, anna: CoreService
) -> None:
    made = host.invitations.make("anna")
    dead = Invitation(made.node_id, made.invite_id, made.secret, ("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(
        ConnectError, match=r"No way was found\. TLS at 127\.0\.0\.1:1: Nothing listens at .* 127\.0\.0\.1:2: Nothing"
    ):
        await anna.join(str(dead))
    assert (await anna.join(str(made))).known_as == "anna"


@pytest.mark.parametrize(
    ("hub", "said"),
    [
        ("https://hub.example.org:8890", "by %dpc_hub https://hub.example.org:8890 and use the same invitation again."),
        ("http://127.0.0.1:8890", "by %dpc_hub http://127.0.0.1:8890 and use the same invitation again."),
        ("http://hub.example.org", "nobody can use that hub."),
        ("https://[--fingerprint]:1", "nobody can use that hub."),
    ],
)
async def test_a_joiner_whose_ways_fail_hears_of_the_lines_hub_and_gets_no_command_that_is_none(
    host: CoreService, anna: CoreService, hub: str, said: str
) -> None:
    made = host.invitations.make("anna")
    for addresses, error in (("127.0.0.1:1",), ConnectError), ((), InvitationError):
        with pytest.raises(error) as failed:
            await anna.join(str(Invitation(made.node_id, made.invite_id, made.secret, addresses, hub)))
        assert f"the hub at {hub}" in str(failed.value) and str(failed.value).endswith(said)
    assert joining.other_hub(made, "") == ""
    assert joining.other_hub(Invitation(made.node_id, made.invite_id, made.secret, (), hub), hub) == ""


# The owner's side.


async def test_a_node_that_does_not_listen_cannot_invite_unless_told_where_it_will_be(anna: CoreService) -> None:
    with pytest.raises(InvitationError, match=r"Run %dpc_start --share first, .* --address HOST:PORT"):
        anna.invitations.make("bob")
    made = anna.invitations.make("bob", addresses=("lab.example", "10.0.0.9:9000", "2001:db8::7", "[2001:db8::8]:1"))
    assert made.addresses == ("lab.example:8889", "10.0.0.9:9000", "[2001:db8::7]:8889", "[2001:db8::8]:1")
    with pytest.raises(InvitationError, match="is no address"):
        anna.invitations.make("carol", addresses=("http://lab.example",))


async def test_another_process_of_the_home_knows_where_the_node_listens_until_it_stops(
    make_home: MakeHome, make_node: MakeNode
) -> None:
    home = make_home("lab")
    node = await make_node("lab", listen=True, home=home)
    assert node.uri is not None
    other = Invitations(Home(home.path), Access(Home(home.path)))
    assert other.make("anna").addresses == (f"127.0.0.1:{node.uri.port}",)
    await node.stop()
    with pytest.raises(InvitationError, match="No node of this home listens"):
        other.make("bob")


async def test_a_node_that_takes_every_address_is_invited_to_at_those_of_the_machine(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whereabouts, "machine_addresses", lambda: ["192.0.2.7", "2001:db8::7"])
    monkeypatch.setattr(whereabouts, "_named_addresses", lambda: ["192.0.2.7", "10.8.0.1"])
    home = make_home("lab")
    whereabouts.Whereabouts(home).note("session", "", 8889)
    made = Invitations(home, Access(home)).make("anna")
    assert made.addresses == ("192.0.2.7:8889", "[2001:db8::7]:8889", "10.8.0.1:8889")
    monkeypatch.setattr(whereabouts, "machine_addresses", lambda: ["192.0.2.99"])  # the laptop moves
    assert Invitations(home, Access(home)).make("bob").addresses[0] == "192.0.2.99:8889"


@pytest.mark.parametrize(
    ("address", "hub", "here_alone"),
    [
        ("", "", True),
        ("localhost:1", "", True),
        ("[::1]:1", "", True),
        ("192.0.2.7", "", False),
        ("", "https://hub.example.org", False),
        ("", "http://127.0.0.1:8890", True),
    ],
)
async def test_a_line_has_the_hub_beside_the_addresses_and_its_owner_is_told_when_it_leads_nowhere_else(
    host: CoreService, address: str, hub: str, here_alone: bool
) -> None:
    set_hub(host.home, hub)
    made = host.invitations.make("anna", addresses=(address,) if address else ())
    read = Invitation.parse(str(made))
    assert read == made and read.hub == hub and len(read.addresses) == 1 + bool(address)
    status = host.invitations.status(made.invite_id)
    assert status.here_alone is here_alone
    assert ("works on this machine alone" in " ".join(invited(status, host.access.rules))) is here_alone


async def test_an_invitation_is_refused_while_the_access_file_is_broken_and_its_line_is_named(
    host: CoreService,
) -> None:
    (host.home.path / ".dpc_access.json").write_text('{\n  "compute": {\n    "enabled": maybe\n  }\n}')
    with pytest.raises(ConfigError, match="line 3, column 16"):
        host.invitations.make("anna")
    assert not host.home.read_invitations()


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"expires": "soon"}, "is no end"),
        ({"expires": "2020-01-01"}, "lies in the past"),
        ({"valid": "never"}, "is no end of a line"),
        ({"valid": ""}, "is no end of a line"),
        ({"valid": "0h"}, "is no end of a line"),
        ({"valid": "1s"}, "12h, 7d, or a date to come\\.$"),
        ({"valid": "2020-01-01"}, "is no end of a line"),
        ({"valid": "2027-13-01"}, "is no end"),
        ({"limits": ("runing=2",)}, "is no limit"),
        ({"limits": ("running=0",)}, "whole number"),
        ({"models": ("*llama",)}, "the name of a model"),
        ({"group": "_x"}, "the name of a group"),
        ({"group": "crowd"}, "allowing it would let in 1 more"),
        ({"name": "dpc-node-x"}, "must be a name"),
        ({"name": ""}, "must be a name"),
        ({"name": "dave"}, "is what dpc-node-d+ is called here: choose another name"),
    ],
)
async def test_terms_that_do_not_fit_are_refused_when_the_invitation_is_made(
    host: CoreService, terms: dict[str, Any], said: str
) -> None:
    host.home.edit_access(
        lambda document: {**firewall.allow(document, DAVE, name="dave"), "node_groups": {"crowd": [DAVE]}}
    )
    with pytest.raises(ConfigError, match=said):
        host.invitations.make(**{"name": "anna", **terms})
    assert not host.home.read_invitations()


async def test_a_line_does_not_outlive_a_permission_that_ends_on_a_day(host: CoreService) -> None:
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).strftime("%Y-%m-%d")
    host.invitations.make("anna", expires=soon, valid="30d")
    host.invitations.make("bob", expires="12h", valid="30d")
    by_day, by_span = (each.valid_until - time.time() for each in host.invitations.all())
    assert by_day < 2 * 86_400 and 29 * 86_400 < by_span < 31 * 86_400


async def test_an_invitation_is_taken_back_by_its_name_or_its_id_and_only_while_it_is_open(
    host: CoreService, anna: CoreService
) -> None:
    one, two = host.invitations.make("anna"), host.invitations.make("bob")
    assert host.invitations.revoke("anna").state == host.invitations.revoke(two.invite_id).state == "revoked"
    assert await refused(anna, one) == joining.REFUSED
    for gone in ("anna", "nobody", ""):
        with pytest.raises(InvitationError, match="No open invitation is for"):
            host.invitations.revoke(gone)
    await anna.join(str(host.invitations.make("anna")))
    with pytest.raises(InvitationError, match=rf"anna has joined by it: %dpc_firewall deny {anna.identity.node_id}"):
        host.invitations.revoke("anna")


async def test_one_name_has_one_open_invitation_and_a_home_has_a_hundred(host: CoreService) -> None:
    host.invitations.make("anna")
    with pytest.raises(InvitationError, match=r"An invitation for anna is open: .*--revoke anna"):
        host.invitations.make(" anna ")
    host.invitations.revoke("anna")
    for number in range(INVITATIONS_LIMIT):
        host.invitations.make(f"guest-{number}")
    with pytest.raises(InvitationError, match="100 invitations are open"):
        host.invitations.make("one-more")
    names = [each.name for each in host.invitations.all()]
    assert names == [f"guest-{number}" for number in range(INVITATIONS_LIMIT)], "what is closed makes room first"


async def test_who_has_a_permission_keeps_it_and_the_name_that_the_owner_gave(
    host: CoreService, anna: CoreService
) -> None:
    host.access.allow(anna.identity.node_id, name="mine", models=("stub-1",), limits=("running=4",))
    await anna.join(str(host.invitations.make("anna", models=("stub-2",), expires="1d", limits=("running=1",))))
    rules, node_id = host.access.rules, anna.identity.node_id
    assert rules.name_of(node_id) == "mine" and rules.limits_for(node_id).running == 4
    assert {model.model for model in await anna.models("lab")} == {"stub-1", "stub-2"}
    assert "expires" not in rules.document["nodes"][node_id], "what had no end has none"


async def test_a_group_is_joined_on_its_terms(host: CoreService, anna: CoreService) -> None:
    host.home.edit_access(
        lambda document: {
            **document,
            "node_groups": {"lab": []},
            "compute": {**document["compute"], "allow_groups": ["lab"]},
            "groups": {"lab": {"allowed_models": ["stub-2"]}},
        }
    )
    joined = await anna.join(str(host.invitations.make("anna", group="lab")))
    assert [model.model for model in joined.host.models] == ["stub-2"]
    assert host.access.rules.document["node_groups"] == {"lab": [anna.identity.node_id]}


async def test_a_refused_stranger_that_joins_is_pending_no_more(host: CoreService, anna: CoreService) -> None:
    await anna.connect(str(host.uri))
    with pytest.raises(AccessDenied):
        await anna.execute_ai_query("hello", host.identity.node_id).complete()
    await until(host.access.pending)
    await anna.join(str(host.invitations.make("anna", models=("stub-1",))))
    assert not host.home.pending()


@pytest.mark.parametrize("damage", [{"secret": "x"}, {"secret": 1}, {"name": None}, {"valid_until": "soon"}])
async def test_a_damaged_entry_is_no_invitation_and_disturbs_no_other(
    host: CoreService, anna: CoreService, damage: dict[str, Any]
) -> None:
    broken, good = host.invitations.make("bob"), host.invitations.make("anna")
    entries = host.home.read_invitations()
    entries[broken.invite_id] |= damage
    host.home.edit_invitations(lambda _: entries)
    assert await refused(anna, broken) == joining.REFUSED
    assert (await anna.join(str(good))).known_as == "anna"
