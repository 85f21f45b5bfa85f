"""Names and addresses: whom a user means, and whom nobody can pretend to be."""

from __future__ import annotations

import json

import pytest

from dpc_jupyter.errors import HandshakeError, PeerNotConnected, UriError
from dpc_jupyter.firewall import Rules
from dpc_jupyter.identity import short
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.node.reaching.directory import Directory
from node.conftest import MakeHome, MakeNode, MakePair, Pair
from node.stub import StubEngine
from node.waiting import until

ID = "dpc-node-" + "5a" * 16
OTHER = "dpc-node-" + "5b" * 16


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (f"dpc://192.0.2.1:9000?node_id={ID}", "192.0.2.1", 9000),
        (f" dpc://lab.example?node_id={ID}\n", "lab.example", 8889),
        (f"dpc://[2001:db8::1]:8889?node_id={ID}", "2001:db8::1", 8889),
    ],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    uri = PeerUri.parse(text)
    assert (uri.host, uri.port, uri.node_id) == (host, port, ID)
    assert PeerUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        *("", "anna", f"http://h:1?node_id={ID}", f"dpc://h:99999?node_id={ID}", "dpc://h:1", "dpc://[::1?node_id=x"),
        *(f"dpc://h?node_id={ID[:-1]}", f"dpc://h?node_id={ID}&node_id={ID}", f"dpc://?node_id={ID}"),
    ],
)
def test_what_is_no_address_is_refused_with_the_shape(text: str) -> None:
    with pytest.raises(UriError, match=r"dpc://host:8889\?node_id="):
        PeerUri.parse(text)


def remember(directory: Directory, uri: PeerUri, claimed: str, given: str | None) -> None:
    if (change := directory.remember(uri.node_id, uri, claimed, given)) is not None:
        directory.save(change)


@pytest.fixture
def directory(make_home: MakeHome) -> Directory:
    rules = Rules.parse(json.dumps({"nodes": {OTHER: {"name": "carol"}}}))
    found = Directory(make_home("d"), lambda: rules)
    remember(found, PeerUri("h", 1, ID), "anna", None)
    return found


@pytest.mark.parametrize(
    ("words", "node_id"),
    [
        ("anna", ID),
        ("carol", OTHER),
        (ID, ID),
        ("5a5a", ID),
        ("dpc-node-5a", ID),
        ("dpc-node-" + "0" * 32, "dpc-node-" + "0" * 32),
    ],
)
def test_a_node_is_found_by_name_id_and_beginning(directory: Directory, words: str, node_id: str) -> None:
    assert directory.find(words, []) == node_id


def test_a_beginning_that_two_share_is_ambiguous(directory: Directory) -> None:
    remember(directory, PeerUri("h", 2, OTHER), "bea", None)
    with pytest.raises(PeerNotConnected, match=f"may be {ID} or {OTHER}: use the node id"):
        directory.find("dpc-node-5", [])


def test_nobody_of_that_name_lists_who_is_known(directory: Directory) -> None:
    with pytest.raises(PeerNotConnected, match=r"Nobody is known as dora\. Known: anna\."):
        directory.find("dora", [])


def test_a_peer_was_last_seen_when_its_link_ended_and_not_when_a_dial_failed(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = directory.peers()[0].last_seen
    for later_s, seen in ((600, began + 600), (900, began + 600)):
        monkeypatch.setattr("time.time", lambda at=began + later_s: at)
        directory.note_lost(ID, "gone")
        assert directory.peers()[0].last_seen == seen


def test_a_name_is_kept_by_the_first_who_had_it_unless_a_user_gives_it_away(directory: Directory) -> None:
    remember(directory, PeerUri("h", 2, OTHER), "anna", None)
    assert directory.find("anna", []) == ID
    remember(directory, PeerUri("h", 2, OTHER), "whatever", "anna")
    assert directory.find("anna", []) == OTHER


def test_a_remembered_name_is_what_a_node_is_called(directory: Directory) -> None:
    assert directory.name_of(ID) == "anna"
    assert directory.name_of(OTHER) == "carol"
    assert directory.name_of("dpc-node-" + "0" * 32) == "dpc-node-0000…0000" == short("dpc-node-" + "0" * 32)


def test_names_and_addresses_survive_a_restart(directory: Directory) -> None:
    again = Directory(directory._home, Rules)
    assert again.find("anna", []) == ID
    assert again.uris_of(ID) == [PeerUri("h", 1, ID)]
    assert again.uris_of(OTHER) == []


async def test_an_inbound_peer_that_claims_a_known_name_does_not_win(allowed: Pair, make_node: MakeNode) -> None:
    mallory = await make_node("mallory")
    mallory._rooms.links._name = "anna"
    victim = await make_node("victim", listen=True)
    await victim.connect(str(allowed.host.uri), name="anna")
    await mallory.connect(str(victim.uri))
    assert victim.directory.find("anna", victim._rooms.links.peers) == allowed.host_id
    with pytest.raises(PeerNotConnected):
        allowed.host.directory.find("nobody-gave-this-name", allowed.host._rooms.links.peers)


async def test_who_is_let_in_without_a_name_does_not_stand_among_the_hosts_under_a_friends(
    allowed: Pair, make_node: MakeNode
) -> None:
    mallory, victim = await make_node("mallory", StubEngine()), await make_node("victim", listen=True)
    mallory.access.allow(victim.identity.node_id)
    mallory.access.set_sharing(True)
    victim.access.set_sharing(True)
    victim.access.allow(mallory.identity.node_id)
    await victim.connect(str(allowed.host.uri), name="anna")
    for claimed, shown in {"anna": short(mallory.identity.node_id), "An\u200bna ": "", "molly": "molly"}.items():
        mallory._rooms.links._name = claimed
        await mallory.connect(str(victim.uri))
        await until(lambda: any(peer.models for peer in victim.peers()))
        (told,) = [peer.name for peer in victim.peers() if peer.node_id == mallory.identity.node_id]
        assert told == (shown or short(mallory.identity.node_id))
        await mallory.disconnect(victim.identity.node_id)
        await until(lambda: len(victim.peers()) == 1)


async def test_an_inbound_peer_is_not_found_by_the_name_that_it_claims(make_pair: MakePair) -> None:
    pair = await make_pair(allow=False)
    with pytest.raises(PeerNotConnected):
        pair.host.execute_ai_query("hello", "bob")


async def test_a_node_is_dialled_again_by_its_name(allowed: Pair) -> None:
    await allowed.asker.disconnect("anna")
    peer = await allowed.asker.connect("anna")
    assert (peer.node_id, peer.name) == (allowed.host_id, "anna")


async def test_another_node_at_a_known_address_is_refused_before_a_byte_is_sent(
    allowed: Pair, make_node: MakeNode
) -> None:
    impostor = await make_node("impostor", listen=True)
    assert impostor.uri is not None
    uri = PeerUri(impostor.uri.host, impostor.uri.port, "dpc-node-" + "0" * 32)
    with pytest.raises(HandshakeError, match=r"is dpc-node-.*, not dpc-node-0000.*Nothing was sent"):
        await allowed.asker.connect(str(uri))


async def test_a_name_without_an_address_cannot_be_dialled(allowed: Pair) -> None:
    with pytest.raises(PeerNotConnected, match="use its dpc:// address once"):
        await allowed.asker.connect("dpc-node-" + "0" * 32)


def test_whom_another_process_of_this_home_has_met_since_is_found(make_home: MakeHome) -> None:
    home = make_home("bob")
    here, there = Directory(home, Rules), Directory(home, Rules)
    change = there.remember(ID, PeerUri("127.0.0.1", 8889, ID), "", "anna")
    assert change is not None
    there.save(change)
    assert here.find("anna", []) == ID
    assert [uri.port for uri in here.uris_of(ID)] == [8889]


@pytest.mark.parametrize("claimed", ["Anna", "anna", "CAROL", "dora", "Local", "this machine"])
def test_a_name_that_is_anothers_is_not_kept_whatever_its_case(directory: Directory, claimed: str) -> None:
    """Nor one by which this machine stands among the hosts."""
    evil = "dpc-node-" + "e" * 32
    rules = Rules.parse(json.dumps({"nodes": {OTHER: {"name": "carol"}, "dpc-node-" + "d" * 32: {"name": "Dora"}}}))
    directory._rules = lambda: rules
    remember(directory, PeerUri("h", 6, evil), claimed, None)
    assert directory.name_of(evil) == short(evil)
    assert {each.name for each in directory.peers() if each.node_id == evil} == {short(evil)}
