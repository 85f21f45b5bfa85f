"""Asking and serving where no port is open, with the hub's part played in memory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from running_host import weights
from transports.bad_network import ByteByByte, worsen
from transports.signalling import Hub, needs_an_address, streams

from dpc_jupyter.backends.llama_cpp import LlamaCpp
from dpc_jupyter.errors import ConnectError, HandshakeError, PeerLost
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links import links as links_module
from dpc_jupyter.node.links import liveness
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.protocol.messages import Options
from dpc_jupyter.transports import webrtc
from dpc_jupyter.transports.base import ByteStream
from dpc_jupyter.transports.ice import IceConfig
from dpc_jupyter.transports.webrtc import Payload
from node.conftest import MakeHome, MakeNode
from node.processes import PATHS, share_with
from node.stub import StubEngine
from node.waiting import PATIENCE_S, until

pytestmark = needs_an_address

MakeHub = Callable[[CoreService, CoreService], Hub]
MakeLink = Callable[..., Awaitable[tuple[CoreService, CoreService]]]


@pytest.fixture
async def make_hub() -> AsyncIterator[MakeHub]:
    """What carries offers from one node to another."""
    made: list[Hub] = []

    def make(asker: CoreService, host: CoreService) -> Hub:
        made.append(Hub(host._rooms.links.take_offer, asker.identity.node_id))
        return made[-1]

    yield make
    for hub in made:
        await hub.close()


async def dial(asker: CoreService, host: CoreService, hub: Hub) -> Peer:
    return await asker._rooms.links.dial_webrtc(host.identity.node_id, hub.signal, PATIENCE_S)


@pytest.fixture
async def make_link(make_node: MakeNode, make_hub: MakeHub) -> MakeLink:
    """A host with one stub engine that listens on no port, and an asker that is let in: host, asker."""

    async def make(engine: StubEngine) -> tuple[CoreService, CoreService]:
        host, asker = await make_node("anna", engine), await make_node("bob")
        host.access.allow(asker.identity.node_id, name="bob")
        host.access.set_sharing(True)
        await dial(asker, host, make_hub(asker, host))
        return host, asker

    return make


async def ask(asker: CoreService, host: CoreService, prompt: str = "hello") -> str:
    bounds: dict[str, Any] = {"timeout_s": PATIENCE_S, "queue_timeout_s": PATIENCE_S}
    return (await asker.execute_ai_query(prompt, host.identity.node_id, **bounds).complete()).text


async def test_a_long_answer_is_byte_identical_and_says_how_it_came(make_link: MakeLink) -> None:
    chance = random.Random(7)
    texts = tuple("".join(chance.choices('abc äöü€ 字😀\n"\\', k=chance.randint(1, 60))) for _ in range(20_000))
    host, asker = await make_link(StubEngine(texts=texts, free=len(texts)))
    assert [peer.kind for peer in asker._rooms.links.peers + host._rooms.links.peers] == ["WebRTC", "WebRTC"]
    assert host.uri is None, "no port is open"
    assert await ask(asker, host) == "".join(texts)


async def test_a_real_model_answers_over_webrtc(make_node: MakeNode, make_hub: MakeHub) -> None:
    """SmolLM2-135M in llama.cpp, greedily: the answer is the one that the host itself gets."""
    host = await make_node("anna", cast(StubEngine, LlamaCpp("embedded", weights().parent, context_window=2048)))
    asker = await make_node("bob")
    host.access.allow(asker.identity.node_id, name="bob")
    host.access.set_sharing(True)
    await dial(asker, host, make_hub(asker, host))
    bounds: dict[str, Any] = {"timeout_s": 60.0, "options": Options(temperature=0.0, max_tokens=24)}
    there = await host.execute_ai_query("Name three colours.", **bounds).complete()
    here = await asker.execute_ai_query("Name three colours.", host.identity.node_id, **bounds).complete()
    assert here.text == there.text != ""


async def test_whoever_is_not_let_in_is_a_stranger_by_this_way_too(make_node: MakeNode, make_hub: MakeHub) -> None:
    host, asker = await make_node("anna", StubEngine()), await make_node("eve")
    peer = await dial(asker, host, make_hub(asker, host))
    assert host._rooms.links.peers[0].stranger and peer.offers == ()


async def test_both_dial_each_other_at_the_same_moment_and_both_can_ask(make_node: MakeNode, make_hub: MakeHub) -> None:
    nodes = (await make_node("anna", StubEngine()), await make_node("bob", StubEngine()))
    for node, other in (nodes, nodes[::-1]):
        node.access.allow(other.identity.node_id)
        node.access.set_sharing(True)
    await asyncio.gather(*(dial(*pair, make_hub(*pair)) for pair in (nodes, nodes[::-1])))
    await until(lambda: all(len(node._rooms.links.peers) == 1 for node in nodes))
    assert tuple(await asyncio.gather(ask(*nodes), ask(*nodes[::-1]))) == ("stub " * 4, "stub " * 4)
    assert all(not peer.closed for node in nodes for peer in node._rooms.links.peers)


async def test_a_node_that_stops_while_somebody_dials_leaves_nothing(make_node: MakeNode, make_hub: MakeHub) -> None:
    host, asker = await make_node("anna", StubEngine()), await make_node("bob")
    hub = make_hub(asker, host)
    dialling = asyncio.create_task(dial(asker, host, hub))
    await until(lambda: host._rooms.links._answerer.half_open)
    await host.stop()
    assert host._rooms.links._answerer.half_open == 0
    dialling.cancel()
    await asyncio.gather(dialling, return_exceptions=True)


async def test_calls_of_strangers_do_not_take_the_place_of_who_is_let_in(
    make_node: MakeNode, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webrtc, "HALF_OPEN_LIMIT", 2)
    host, asker, eve = await make_node("anna"), await make_node("bob"), await make_node("eve")
    host.access.allow(asker.identity.node_id)
    host.access.set_sharing(True)
    hub, offers, calls = make_hub(asker, host), list[Payload](), list[asyncio.Task[None]]()

    async def keep(offer: Payload) -> Payload:
        offers.append(offer)
        raise ConnectError("It is called by other names.")

    async def ring(number: int) -> None:
        with suppress(ConnectError, HandshakeError):
            await host._rooms.links.take_offer(f"dpc-node-{number:032x}", offers[0], lambda _: asyncio.sleep(0))

    async def signal(offer: Payload) -> Payload:
        """Between NATs a call takes a second or two; meanwhile others ring."""
        answer = await hub.signal(offer)
        calls.extend(asyncio.create_task(ring(number)) for number in range(4))
        await asyncio.sleep(0.3)
        return answer

    with suppress(ConnectError):
        await eve._rooms.links.dial_webrtc(host.identity.node_id, keep, PATIENCE_S)
    try:
        peer = await asker._rooms.links.dial_webrtc(host.identity.node_id, signal, 5.0)
        assert not peer.closed and host._rooms.links._answerer.half_open <= 3
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


# What holds for TLS holds here.


async def test_the_hello_must_come_from_who_opened_the_channel(make_node: MakeNode, make_home: MakeHome) -> None:
    """Two keys in one process: the channel is proven with one, and the HELLO is signed with the other."""
    host, asker, other = await make_node("anna"), await make_node("bob"), await make_node("eve")
    hub = Hub(host._rooms.links.take_offer, asker.identity.node_id)
    stream = await webrtc.dial(hub.signal, asker.identity, host.identity.node_id, IceConfig(), PATIENCE_S)
    peer = other._rooms.links.adopt_client(stream, host.identity.node_id)
    with pytest.raises(HandshakeError, match=f"{asker.identity.node_id} opened this link, and now it says HELLO as"):
        await other._rooms.links._finish_handshake(peer, host.identity.node_id, PATIENCE_S)
    await hub.close()
    assert host._rooms.links.peers == []


async def test_a_host_that_is_full_takes_no_more(
    make_node: MakeNode, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "STREAMS_LIMIT", 0)
    host, asker = await make_node("anna", StubEngine()), await make_node("bob")
    with pytest.raises(ConnectError, match="No link to"):
        await dial(asker, host, make_hub(asker, host))
    assert host._rooms.links._answerer.half_open == 0


async def test_who_proves_its_id_and_says_no_hello_is_cut_off(
    make_node: MakeNode, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webrtc, "HANDSHAKE_S", 0.5)
    host, asker = await make_node("anna"), await make_node("bob")
    hub = make_hub(asker, host)
    stream = await webrtc.dial(hub.signal, asker.identity, host.identity.node_id, IceConfig(), PATIENCE_S)
    await until(lambda: host._rooms.links._answerer.half_open == 1)
    await until(lambda: host._rooms.links._answerer.half_open == 0 and not host._rooms.links._streams)
    await stream.give_up()


# Another process, and a bad network.


async def test_a_host_in_another_process_answers_and_its_sudden_end_is_known_by_its_silence(
    make_home: MakeHome, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over UDP nobody says that a process has died: PINGs find out, as with a cable that was pulled."""
    monkeypatch.setattr(liveness, "PING_EVERY_S", 0.2)
    monkeypatch.setattr(liveness, "SILENCE_S", 1.0)
    asker, home = await make_node("bob"), make_home("far")
    share_with(home, asker.identity.node_id)
    environment = os.environ | {"DPC_HOME": str(home.path), "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "node.webrtc_host",
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    hears, says = process.stdin, process.stdout
    assert hears is not None and says is not None
    try:
        host_id = json.loads(await says.readline())

        async def signal(payload: Payload) -> object:
            hears.write(json.dumps({"sender": asker.identity.node_id, "payload": payload}).encode() + b"\n")
            return json.loads(await says.readline())

        await asker._rooms.links.dial_webrtc(host_id, signal, PATIENCE_S)
        stream = asker.execute_ai_query("hello", host_id)
        await until(lambda: stream.answer.text)
        process.kill()
        with pytest.raises(PeerLost, match="silent"):
            await stream.complete()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_100_of_100_answers_are_byte_identical_over_a_network_that_loses_delays_and_crumbles(
    make_node: MakeNode,
) -> None:
    """5 % of the datagrams of either way are lost, the rest takes 200 ms there and back, and bytes come one by one."""
    chance = random.Random(5)
    texts = tuple(f"{number} äöü😀 " for number in range(40))
    host, asker = (
        await make_node("anna", StubEngine(texts=texts, pause_s=0.01, free=40, slots=16)),
        await make_node("bob"),
    )
    host.access.allow(asker.identity.node_id, name="bob", limits=("requests_per_minute=1000",))
    host.access.set_sharing(True)
    async with streams(asker.identity, host.identity) as ends:
        counts = [worsen(stream, loss=0.05, delay_s=0.1, chance=chance) for stream in ends]
        slow = [cast(ByteStream, ByteByByte(stream)) for stream in ends]
        host._rooms.links.adopt_server(slow[1])
        peer = asker._rooms.links.adopt_client(slow[0], host.identity.node_id)
        await asker._rooms.links._finish_handshake(peer, host.identity.node_id, PATIENCE_S)
        places = asyncio.Semaphore(8)

        async def one() -> str:
            async with places:
                return await ask(asker, host)

        answers = await asyncio.gather(*(one() for _ in range(100)))
    assert answers == ["".join(texts)] * 100
    assert all(lost > 20 for _, lost in counts), counts
