"""Two nodes and the hub between them, which may lie."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from dpc_jupyter.errors import ConfigError, ConnectError, DpcError, HandshakeError
from dpc_jupyter.identity import Identity
from dpc_jupyter.protocol.handshake import introduction
from dpc_jupyter.transports import data_channel, sdp, webrtc
from dpc_jupyter.transports.gate import HANDSHAKE_S
from dpc_jupyter.transports.ice import IceConfig, TurnServer, new_connection
from dpc_jupyter.transports.webrtc import Payload
from transports.nodes import Ear, until
from transports.signalling import NOBODY, answering, needs_an_address, streams

pytestmark = needs_an_address


@pytest.fixture(autouse=True)
def no_fault_goes_unseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What aiortc's tasks raise and nobody fetches is told to the loop alone."""
    seen: list[str] = []

    def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append(f"{context.get('message')} {context.get('exception')!r} {context.get('future')!r}")

    for loop in (asyncio.BaseEventLoop, uvloop.Loop):
        with suppress(TypeError):  # a compiled class
            monkeypatch.setattr(loop, "call_exception_handler", handler)
    yield
    gc.collect()  # a task whose exception nobody fetched tells so when it goes
    assert seen == []


def with_sdp(payload: Payload, change: Any) -> Payload:
    kind = payload["type"]
    return {"type": kind, kind: {"type": kind, "sdp": change(payload[kind]["sdp"])}}


async def test_both_ends_know_who_the_other_one_is(guest_id: Identity, host_id: Identity) -> None:
    async with streams(guest_id, host_id) as (dialler, answerer):
        assert (dialler.peer_id, answerer.peer_id) == (host_id.node_id, guest_id.node_id)
        assert dialler.server_cert_der == answerer.server_cert_der == host_id.cert_der
        assert dialler.kind == "WebRTC" and dialler.address and answerer.address
        ears = Ear(), Ear()
        dialler.attach(ears[0])
        answerer.attach(ears[1])
        dialler.write(b"hello")
        answerer.write(b"welcome")
        await until(lambda: ears[0].heard and ears[1].heard)
        assert (ears[0].heard, ears[1].heard) == (b"welcome", b"hello")


def test_nobody_pays_for_aiortc_before_it_is_used() -> None:
    """A node that starts, listens and stops imports none of it."""
    program = """if True:
        import asyncio, sys
        from dpc_jupyter.backends.registry import Registry
        from dpc_jupyter.node.core_service import CoreService
        import dpc_jupyter.cli, dpc_jupyter.transports.webrtc
        async def run():
            node = CoreService(name="light", registry=Registry([]))
            await node.start(("127.0.0.1", 0))
            await node.stop()
        asyncio.run(run())
        print([name for name in sys.modules if name.partition(".")[0] in ("aiortc", "aioice", "av")])
    """
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


async def test_an_offer_names_no_server_that_nobody_configured(guest_id: Identity) -> None:
    connection = await new_connection(NOBODY)
    connection.createDataChannel("x")
    assert connection.sctp is not None
    ice: Any = connection.sctp.transport.transport
    assert (ice._connection.stun_server, ice._connection.turn_server) == (None, None)
    await connection.close()


# A hub that lies.


async def refused(
    dialler: Identity, answerer: Identity, lie: Any, sender: str = ""
) -> tuple[DpcError, list[Exception]]:
    """Dial through a hub that `lie` has been told to; nobody may get a stream out of it."""
    async with answering(answerer, sender or dialler.node_id) as (hub, accepted):
        lie(hub)
        with pytest.raises(DpcError) as failed:
            await webrtc.dial(hub.signal, dialler, answerer.node_id, NOBODY, 4.0)
        await hub.close()
        assert accepted == []
        return failed.value, hub.failures


def forged(text: str) -> str:
    """Another fingerprint, of a key that somebody else holds."""
    found = sdp.read(text)
    return text.replace(found.fingerprint.hex(":").upper(), bytes(32).hex(":"))


async def test_a_hub_that_swaps_the_answers_fingerprint_is_noticed_before_anything_is_sent(
    guest_id: Identity, host_id: Identity
) -> None:
    def lie(hub: Any) -> None:
        hub.on_answer = lambda payload: with_sdp(payload, forged)

    error, _ = await refused(guest_id, host_id, lie)
    assert isinstance(error, HandshakeError) and "in the middle" in str(error)


async def test_a_hub_that_swaps_the_offers_fingerprint_is_noticed(guest_id: Identity, host_id: Identity) -> None:
    def lie(hub: Any) -> None:
        hub.on_offer = lambda payload: with_sdp(payload, forged)

    _, failures = await refused(guest_id, host_id, lie)
    assert "in the middle" in str(failures[0])


async def test_a_hub_that_puts_itself_at_the_end_is_found_out_and_nothing_is_signed(
    guest_id: Identity, host_id: Identity, evil_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[str] = []
    sign = Identity.sign

    def noting(self: Identity, data: bytes) -> bytes:
        signed.append(self.node_id)
        return sign(self, data)

    monkeypatch.setattr(Identity, "sign", noting)
    async with answering(evil_id, guest_id.node_id) as (hub, accepted):
        with pytest.raises(HandshakeError, match=f"is {evil_id.node_id}, not {host_id.node_id}.*Nothing was signed"):
            await webrtc.dial(hub.signal, guest_id, host_id.node_id, NOBODY, 10.0)
        await hub.settled()
        assert accepted == [] and guest_id.node_id not in signed


async def test_a_hub_that_names_another_sender_gets_the_offer_refused(
    guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    _, failures = await refused(evil_id, host_id, lambda hub: None, sender=guest_id.node_id)
    assert isinstance(failures[0], HandshakeError)
    assert f"{evil_id.node_id}, not {guest_id.node_id}" in str(failures[0])


async def test_a_relay_between_two_victims_has_their_proofs_and_gains_nothing(
    guest_id: Identity, host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub ends both DTLS channels itself and passes every message on: the proofs name other fingerprints."""
    relayed: list[bytes] = []
    async with answering(host_id, guest_id.node_id) as (to_host, accepted):

        async def middle(payload: Payload) -> Payload:
            inner, outer = await new_connection(NOBODY), await new_connection(NOBODY)
            from aiortc import RTCSessionDescription

            forward = inner.createDataChannel(data_channel.LABEL)

            early: list[bytes] = []
            forward.on("message", early.append)

            def pass_on(channel: Any) -> Any:
                def take(message: bytes) -> None:
                    relayed.append(message)
                    if channel.readyState == "open":
                        channel.send(message)

                return take

            def join(backward: Any) -> None:
                forward.remove_all_listeners("message")
                for message in early:
                    pass_on(backward)(message)
                backward.on("message", pass_on(forward))
                forward.on("message", pass_on(backward))

            outer.on("datachannel", join)
            connections.extend((inner, outer))
            await inner.setLocalDescription()
            text = inner.localDescription.sdp
            answer = await to_host.signal({"type": "offer", "offer": {"type": "offer", "sdp": text}})
            await inner.setRemoteDescription(RTCSessionDescription(answer["answer"]["sdp"], "answer"))
            opened = asyncio.Event()
            forward.on("open", opened.set)
            await opened.wait()
            await outer.setRemoteDescription(RTCSessionDescription(payload["offer"]["sdp"], "offer"))
            await outer.setLocalDescription()
            return {"type": "answer", "answer": {"type": "answer", "sdp": outer.localDescription.sdp}}

        connections: list[Any] = []
        with pytest.raises(HandshakeError) as failed:
            await webrtc.dial(middle, guest_id, host_id.node_id, NOBODY, 10.0)
        await to_host.settled()
        for connection in connections:
            await connection.close()
        assert "signed for another WebRTC channel" in str(failed.value)
        assert accepted == [] and "signed for another WebRTC channel" in str(to_host.failures[0])
        assert len(relayed) >= 3, "it did see the introductions and a proof"


async def test_an_old_answer_that_is_played_again_opens_nothing(guest_id: Identity, host_id: Identity) -> None:
    async with answering(host_id, guest_id.node_id) as (hub, _):
        first = await webrtc.dial(hub.signal, guest_id, host_id.node_id, NOBODY, 10.0)
        await first.give_up()
        old = hub.answers[0]

        async def replay(payload: Payload) -> Payload:
            return old

        with pytest.raises(ConnectError):
            await webrtc.dial(replay, guest_id, host_id.node_id, NOBODY, 2.0)


async def test_a_proof_that_is_sent_back_to_who_made_it_is_worth_nothing(
    guest_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody without a key echoes the introduction and the proof of a node that dials its own other session."""
    async with echoing(monkeypatch) as signal:
        with pytest.raises(HandshakeError, match="signed for another WebRTC channel"):
            await webrtc.dial(signal, guest_id, guest_id.node_id, NOBODY, 10.0)


def echoing(monkeypatch: pytest.MonkeyPatch, first: str | bytes | None = None) -> Any:
    """A peer of another make at the end of a channel: it says `first`, or what it hears."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run() -> Any:
        connection = await new_connection(NOBODY)

        def use(channel: Any) -> None:
            if first is None:
                channel.on("message", channel.send)
            else:
                channel.send(first)

        connection.on("datachannel", use)

        async def signal(payload: Payload) -> Payload:
            from aiortc import RTCSessionDescription

            await connection.setRemoteDescription(RTCSessionDescription(payload["offer"]["sdp"], "offer"))
            await connection.setLocalDescription()
            return {"type": "answer", "answer": {"type": "answer", "sdp": connection.localDescription.sdp}}

        try:
            yield signal
        finally:
            await connection.close()

    return run()


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ('{"type": "ping", "timestamp": 1}', "D-PC Messenger"),
        (b'0000000002{"command": "HELLO"}', "does not prove who it is"),
        (introduction(bytes(32), b"no certificate"), "cannot be read"),
        (b"x" * 16_385, "larger than allowed"),
    ],
)
async def test_a_peer_that_does_not_prove_who_it_is_is_refused_with_a_sentence(
    first: str | bytes, says: str, guest_id: Identity, host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with echoing(monkeypatch, first) as signal:
        with pytest.raises(HandshakeError, match=says):
            await webrtc.dial(signal, guest_id, host_id.node_id, NOBODY, 10.0)


async def test_a_peer_that_says_nothing_is_given_five_seconds(
    guest_id: Identity, host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HANDSHAKE_S == 5.0
    monkeypatch.setattr(webrtc, "HANDSHAKE_S", 0.5)
    async with echoing(monkeypatch, b"") as signal:  # aiortc sends an empty message as one
        with pytest.raises(HandshakeError, match=r"does not prove"):
            await webrtc.dial(signal, guest_id, host_id.node_id, NOBODY, 10.0)
    async with answering(host_id, guest_id.node_id) as (hub, accepted):
        monkeypatch.setattr(data_channel.WebRtcStream, "send_proof", lambda *_: None)
        with pytest.raises(HandshakeError, match=r"did not prove .* within 0.5 s"):
            await webrtc.dial(hub.signal, guest_id, host_id.node_id, NOBODY, 10.0)
        assert accepted == []


# What comes through a hub.


@pytest.mark.parametrize(
    "payload",
    [None, [], "offer", {}, {"offer": None}, {"offer": {"sdp": 7}}, {"offer": {"sdp": ""}}, {"offer": {"sdp": "v=0"}}],
)
async def test_what_is_no_offer_is_refused_with_a_sentence(payload: object, host_id: Identity) -> None:
    async with answering(host_id, "somebody") as (hub, accepted):

        async def reply(_: Payload) -> None:
            raise AssertionError("answered")

        with pytest.raises(HandshakeError):
            await hub.take_offer("somebody", payload, reply)
        assert accepted == []


async def test_a_hub_that_answers_nothing_of_use_is_an_error_of_ours(guest_id: Identity, host_id: Identity) -> None:
    for answer in (None, {}, {"type": "answer", "answer": {"type": "answer", "sdp": "v=0"}}):

        async def signal(_: Payload, answer: object = answer) -> object:
            return answer

        with pytest.raises(HandshakeError):
            await webrtc.dial(signal, guest_id, host_id.node_id, NOBODY, 5.0)


async def test_nobody_answers_within_the_time_given(guest_id: Identity, host_id: Identity) -> None:
    async def signal(_: Payload) -> None:
        await asyncio.sleep(60)

    with pytest.raises(ConnectError, match=r"was not reached over WebRTC within 0.3 s.*TURN"):
        await webrtc.dial(signal, guest_id, host_id.node_id, NOBODY, 0.3)


async def offer_from(identity: Identity) -> Payload:
    """A well-formed offer whose sender has gone."""
    kept: list[Payload] = []

    async def signal(payload: Payload) -> None:
        kept.append(payload)
        raise ConnectError("gone")

    with pytest.raises(ConnectError):
        await webrtc.dial(signal, identity, identity.node_id, NOBODY, 5.0)
    return kept[0]


async def test_offers_that_lead_nowhere_hold_16_places_in_all_and_4_a_sender(
    guest_id: Identity, host_id: Identity
) -> None:
    assert (webrtc.HALF_OPEN_LIMIT, webrtc.HALF_OPEN_EACH) == (16, 4)
    offer = await offer_from(guest_id)
    async with answering(host_id, "") as (hub, accepted):
        answerer = hub.take_offer.__self__  # type: ignore[attr-defined]
        gone = [asyncio.Event() for _ in range(24)]

        async def reply(_: Payload) -> None:
            pass

        async def take(number: int) -> None:
            with pytest.raises(ConnectError, match="needed its place"):
                await hub.take_offer(f"sender {number // 6}", offer, reply)
            gone[number].set()

        tasks = []
        for number in range(24):
            tasks.append(asyncio.create_task(take(number)))
            await asyncio.sleep(0)
            assert answerer.half_open <= 16
        await until(lambda: [event.is_set() for event in gone] == ([True] * 2 + [False] * 4) * 4, "the oldest gave way")
        assert answerer.half_open == 16 and accepted == []
        # And an honest peer gets in all the same.
        hub.sender = guest_id.node_id
        stream = await webrtc.dial(hub.signal, guest_id, host_id.node_id, NOBODY, 10.0)
        await stream.give_up()
        await answerer.close()
        await asyncio.gather(*tasks)
        assert answerer.half_open == 0


async def test_an_offer_that_leads_nowhere_is_dropped_in_time(
    guest_id: Identity, host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert webrtc.FIND_WAY_S == 15.0
    monkeypatch.setattr(webrtc, "FIND_WAY_S", 0.3)
    offer = await offer_from(guest_id)
    async with answering(host_id, "") as (hub, _):

        async def reply(_: Payload) -> None:
            pass

        with pytest.raises(ConnectError, match="in time"):
            await hub.take_offer("somebody", offer, reply)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"stun": ("stun.example.org",)}, "no such server"),
        ({"stun": ("stun:a b",)}, "no such server"),
        ({"turn": (TurnServer("turn:x?transport=sctp", "", ""),)}, "no such server"),
        ({"relay_only": True}, "needs a TURN server"),
    ],
)
def test_a_wrong_configuration_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        IceConfig(**config)


async def test_an_answer_whose_parts_are_not_the_offers_is_refused(guest_id: Identity, host_id: Identity) -> None:
    async with answering(host_id, guest_id.node_id) as (hub, _):

        async def other_part(payload: Payload) -> Payload:
            answer = await hub.signal(payload)
            sdp = answer["answer"]["sdp"].replace("a=mid:0", "a=mid:1").replace("BUNDLE 0", "BUNDLE 1")
            return {"type": "answer", "answer": {"type": "answer", "sdp": sdp}}

        with pytest.raises(HandshakeError, match="cannot be used"):
            await webrtc.dial(other_part, guest_id, host_id.node_id, NOBODY, 10.0)
        await hub.settled()
