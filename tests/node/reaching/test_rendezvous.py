"""Two nodes that listen nowhere meet over a real hub, by WebRTC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hub.running_hub import RunningHub

from dpc_jupyter import firewall
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import ConfigError, ConnectError, DpcError, InvitationError
from dpc_jupyter.home import Home
from dpc_jupyter.hub.client.adverts import FoundNode, Offer
from dpc_jupyter.hub.client.trust import Trust
from dpc_jupyter.hub.wire import OFFERS_LIMIT, WORDS_LIMIT
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.address import machine_addresses
from dpc_jupyter.node.reaching.network import Network, set_hub
from dpc_jupyter.node.reaching.presence import _fitting
from dpc_jupyter.node.reaching.rendezvous import Rendezvous
from node.conftest import MakeHome, MakeNode, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until

needs_network = pytest.mark.skipif(
    machine_addresses()[0] == "127.0.0.1", reason="WebRTC was NOT tested: this machine has no address beside loopback"
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "hub").start()
    yield running
    running.kill()


def at(hub: RunningHub, home: Home) -> Home:
    """This home's nodes log in to the hub."""
    home.edit_network(lambda _: {"hub": {"url": hub.url}})
    return home


async def node_at(hub: RunningHub, home: Home, name: str, *engines: StubEngine, calls: bool) -> CoreService:
    node = CoreService(at(hub, home), name=name, registry=Registry(engines))
    await node.start(takes_calls=calls)
    return node


async def found_by(asker: CoreService, group: str = "") -> FoundNode:
    """An advert follows the rules within some seconds."""
    for _ in range(300):
        for found in await asker.search(model="stub-1", group=group):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("nobody was found")


@needs_network
async def test_a_host_without_a_port_is_found_called_and_answers(
    hub: RunningHub, make_home: MakeHome, quiet_loop: None
) -> None:
    engine = StubEngine()
    host = await node_at(hub, make_home("anna"), "anna", engine, calls=True)
    asker = await node_at(hub, make_home("bob"), "bob", calls=False)
    pair = Pair(host, asker, engine)
    try:
        host.access.allow(pair.asker_id, name="bob")
        host.access.set_sharing(True)
        await until(lambda: "not" not in host.status().hub and "not" not in asker.status().hub)
        assert host.status().hub == f"online at {hub.url}"
        status = await asker.connect(pair.host_id, name="anna")
        assert status.kind == "WebRTC"
        assert [(attempt.way, attempt.won) for attempt in asker.attempts(pair.host_id)] == [("WebRTC", True)]
        await until(lambda: pair.asker_link.offers)
        assert (await pair.ask().complete()).text == PIECE * 4
        # Known from now on, by its name, without any address.
        await asker.disconnect("anna")
        assert (await asker.connect("anna")).node_id == pair.host_id
        # What the hub shows is what the access file allows.
        found = await found_by(asker)
        assert (found.node_id, found.models, found.groups) == (pair.host_id, ("stub-1", "stub-2"), ())
        lab = {"node_groups": {"lab": [pair.asker_id], "club": []}}
        allowed = {"enabled": True, "allow_groups": ["lab", "club"]}
        host.home.edit_access(lambda document: {**document, **lab, "compute": allowed})
        assert (await found_by(asker, group="lab")).groups == ("lab",), "what lets the asker in, and no more"
        # A hub that dies takes no link with it, and nodes are back with it.
        hub.kill()
        assert (await pair.ask().complete()).text == PIECE * 4
        await until(lambda: host.status().hub.startswith("not online"))
        hub.start()
        await until(lambda: host.status().hub.startswith("online"), within_s=6)
    finally:
        await asker.stop()
        await host.stop()


@needs_network
async def test_who_is_not_online_is_said_by_name_and_at_once(
    hub: RunningHub, make_home: MakeHome, quiet_loop: None
) -> None:
    asker, absent = await node_at(hub, make_home("bob"), "bob", calls=False), make_home("anna")
    try:
        await until(lambda: asker.status().hub.startswith("online"))
        with pytest.raises(ConnectError, match=r"not online|offline"):
            await asker.connect(absent.load_identity().node_id)
    finally:
        await asker.stop()


def test_an_advert_holds_what_a_hub_takes() -> None:
    each = [
        Offer(tuple(f"m{number}" for number in range(60)), (f"dpc-node-{number:032x}",), ()) for number in range(70)
    ]
    fitting = _fitting(each)
    assert fitting == tuple(each[:16]) and sum(offer.words for offer in fitting) <= WORDS_LIMIT
    assert len(_fitting(Offer(("m",), ("n",)) for _ in range(70))) == OFFERS_LIMIT


async def test_a_node_without_a_hub_says_how_to_set_one(make_node: MakeNode) -> None:
    node = await make_node("bob")
    assert node.status().hub == ""
    with pytest.raises(ConnectError, match=r"network\.json"):
        await node.search()


@needs_network
async def test_a_node_that_has_just_started_waits_for_its_hub_and_one_that_begins_to_listen_is_called(
    hub: RunningHub, make_home: MakeHome, quiet_loop: None
) -> None:
    host = await node_at(hub, make_home("anna"), "anna", StubEngine(), calls=False)
    asker = await node_at(hub, make_home("bob"), "bob", calls=False)
    try:
        await until(lambda: host.status().hub.startswith("online"))
        assert not host.status().takes_calls
        with pytest.raises(ConnectError):  # at once, without a word of an offline hub
            await asker.connect(host.identity.node_id)
        await host.listen("127.0.0.1", 0)
        await until(lambda: host.status().hub.startswith("online"))
        assert host.status().takes_calls
        again = await node_at(hub, make_home("carol"), "carol", calls=False)
        assert (await again.connect(host.identity.node_id)).kind == "WebRTC"
        await again.stop()
    finally:
        await asker.stop()
        await host.stop()


@needs_network
async def test_an_invitation_of_a_host_without_a_port_leads_over_its_hub(
    hub: RunningHub, make_home: MakeHome, make_node: MakeNode
) -> None:
    host = await node_at(hub, make_home("anna"), "anna", StubEngine(), calls=True)
    joiner = await node_at(hub, make_home("bob"), "bob", calls=False)
    hubless = await make_node("carol")
    try:
        host.access.set_sharing(True)
        await until(lambda: host.status().hub.startswith("online"))
        line = str(await asyncio.to_thread(host.invitations.make, "bob"))
        assert len(line) < 120
        with pytest.raises(InvitationError, match=f"opens no port: .* %dpc_hub {hub.url} and use the same"):
            await hubless.join(line)
        joined = await joiner.join(line)
        assert (joined.host.kind, joined.known_as) == ("WebRTC", "bob")
        assert [model.model for model in joined.host.models] == ["stub-1", "stub-2"]
    finally:
        await joiner.stop()
        await host.stop()


def test_a_hub_is_written_into_the_network_file_and_nothing_else_is_touched(make_home: MakeHome) -> None:
    home = make_home("bob")
    home.edit_network(lambda _: {"_note": "mine", "stun": ["stun:stun.example.org:3478"]})
    set_hub(home, "https://HUB.example.org:443/", Trust(fingerprint="6f0c"))
    assert home.read_network() == {
        "_note": "mine",
        "stun": ["stun:stun.example.org:3478"],
        "hub": {"url": "https://hub.example.org", "fingerprint": "6f0c"},
    }
    assert Network.read(home).trust.fingerprint == "6f0c"
    for wrong in ("http://hub.example.org", "https://hub.example.org/x", "hub.example.org:8890"):
        with pytest.raises(DpcError):
            set_hub(home, wrong)
    set_hub(home, "")
    assert home.read_network() == {"_note": "mine", "stun": ["stun:stun.example.org:3478"]}
    home.edit_network(lambda _: {"stun": "x"})
    with pytest.raises(ConfigError, match=r"network\.json"):
        set_hub(home, "https://hub.example.org")


@pytest.mark.parametrize(
    "document",
    [
        {"hub": {"adress": "x"}},
        {"stun": "stun:x"},
        {"stun": ["http://x"]},
        {"relay_only": True},
        {"turn": [{"url": "turn:x"}]},
    ],
)
def test_a_network_file_that_is_wrong_is_refused_by_name(make_home: MakeHome, document: dict[str, object]) -> None:
    home = make_home("bob")
    home.network_path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"network\.json"):
        CoreService(home)


async def test_a_hub_that_is_left_hears_no_advert_and_the_next_one_hears_it(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may take its time to list its models; the hub may be changed meanwhile."""
    node = await make_node("anna", StubEngine())
    presence, heard = node._rooms.presence, []
    presence._takes_calls = True
    listing = asyncio.Event()
    offers = node._rooms.registry.offers

    async def slow() -> object:
        await listing.wait()
        return await offers()

    class Hub:
        async def advertise(self, advert: object) -> None:
            heard.append(self)

        async def close(self) -> None:
            pass

    monkeypatch.setattr(node._rooms.registry, "offers", slow)
    left, next_one = Hub(), Hub()
    node.home.edit_access(lambda document: firewall.set_enabled(document, True))
    node.home.edit_access(lambda document: firewall.allow(document, "dpc-node-" + "d" * 32))
    node.access.reload()
    for hub in (left, None, next_one):
        presence.hub = cast(Rendezvous, hub)
        presence.advertise()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    listing.set()
    await until(lambda: heard)
    assert heard == [next_one]
    presence.hub = None
