"""Hostile peers against real nodes over real TLS: who they turn out to be, and who is not disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import dptp_v15_peer as v15
import pytest
from protocol.ends import as_v15, client_of, frame, frames
from transports.nodes import Stub, node, recorder, until

from dpc_jupyter.errors import HandshakeError
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.protocol.messages import GetProviders
from dpc_jupyter.transports.tls import server_context

NO_BINDING = "offers no channel binding"


@pytest.fixture
async def good(host_id: Identity) -> AsyncIterator[Stub]:
    """The host that somebody wants to be served by."""
    async with node(host_id) as found:
        yield found


@pytest.fixture
async def victim(guest_id: Identity) -> AsyncIterator[Stub]:
    """A client of ours, in whose name somebody wants to be served."""
    async with node(guest_id, listen=None) as found:
        yield found


def uri_of(host: v15.Host, node_id: str | None = None) -> PeerUri:
    return PeerUri(v15.LOOPBACK, host.port, node_id or host.identity.node_id)


async def refusal(asker: v15.Asker) -> str:
    """Connect, be refused, and read the sentence as a peer would."""
    with pytest.raises(v15.RefusedError) as caught:
        await asker.connect()
    message = caught.value.message
    assert message is not None and (message["command"], message["status"]) == ("HELLO_ACK", "ERROR")
    with pytest.raises(ConnectionError):
        await asker.receive()
    await asker.close()
    return str(message["error"])


class Relay:
    """An evil host that passes a good host's challenge on to whoever dials it."""

    def __init__(self, evil: Identity, good: Stub, *, strip: bool) -> None:
        self.to_good = v15.Asker(as_v15(evil), good.uri.port, greet=())
        self.host = v15.Host(as_v15(evil), nonce=self.nonce)
        self.strip = strip

    async def nonce(self) -> bytes:
        await self.to_good.open()
        nonce = await self.to_good.challenge()
        if not self.strip:
            self.host.challenge_extra["cb"] = self.to_good.challenge_payload["cb"]
        return nonce

    async def use(self, hello: dict[str, Any]) -> dict[str, Any]:
        """Send what a victim signed to the good host; its answer."""
        self.to_good.replay = hello
        try:
            return await self.to_good.hello()
        except v15.RefusedError as refused:
            assert refused.message is not None
            return refused.message

    async def __aenter__(self) -> Relay:
        await self.host.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.to_good.close()
        await self.host.__aexit__()


async def test_a_relayed_challenge_is_not_signed_by_our_client(good: Stub, victim: Stub, evil_id: Identity) -> None:
    async with Relay(evil_id, good, strip=False) as relay:
        with pytest.raises(HandshakeError, match="made for another TLS certificate"):
            await victim.connect(uri_of(relay.host))
        assert relay.host.received == []
    assert good.opened == [] and victim.opened == []


async def test_a_relayed_challenge_is_not_signed_even_for_a_host_marked_legacy_ok(
    good: Stub, victim: Stub, evil_id: Identity
) -> None:
    victim.legacy.add(evil_id.node_id)
    async with Relay(evil_id, good, strip=False) as relay:
        with pytest.raises(HandshakeError, match="made for another TLS certificate"):
            await victim.connect(uri_of(relay.host))
        assert relay.host.received == []
    assert good.opened == []


async def test_a_relayed_challenge_without_its_binding_is_not_signed(
    good: Stub, victim: Stub, evil_id: Identity
) -> None:
    async with Relay(evil_id, good, strip=True) as relay:
        with pytest.raises(HandshakeError, match=NO_BINDING):
            await victim.connect(uri_of(relay.host))
        assert relay.host.received == []
    assert good.opened == []


async def test_what_a_legacy_host_is_given_does_not_serve_at_a_good_host(
    good: Stub, victim: Stub, evil_id: Identity
) -> None:
    """The victim marked the evil host, so it signs the bare nonce; the good host did not mark the victim."""
    victim.legacy.add(evil_id.node_id)
    async with Relay(evil_id, good, strip=True) as relay:
        await victim.connect(uri_of(relay.host))
        (hello,) = await relay.host.heard("HELLO")
        answer = await relay.use(hello)
        assert answer["status"] == "ERROR" and NO_BINDING in answer["error"]
    assert good.opened == []


async def test_a_relayed_v15_asker_is_not_served_where_nobody_marked_it(
    good: Stub, guest_id: Identity, evil_id: Identity
) -> None:
    async with Relay(evil_id, good, strip=True) as relay:
        async with v15.Asker(as_v15(guest_id), relay.host.port, greet=()):
            (hello,) = await relay.host.heard("HELLO")
            answer = await relay.use(hello)
        assert answer["status"] == "ERROR" and NO_BINDING in answer["error"]
    assert good.opened == []


async def test_a_mark_of_legacy_ok_gives_up_the_proof_for_that_one_node_alone(
    good: Stub, guest_id: Identity, evil_id: Identity, identities: tuple[Identity, ...]
) -> None:
    """What the mark costs, and all that it costs: v1.5 signs any nonce, and nothing in its HELLO says for whom."""
    good.legacy.add(guest_id.node_id)
    for dupe, outcome in ((identities[3], "ERROR"), (guest_id, "OK")):
        async with Relay(evil_id, good, strip=True) as relay, v15.Asker(as_v15(dupe), relay.host.port, greet=()):
            (hello,) = await relay.host.heard("HELLO")
            assert (await relay.use(hello))["status"] == outcome


async def test_a_relayed_challenge_signed_with_the_evil_hosts_own_binding_is_refused(
    good: Stub, guest_id: Identity, evil_id: Identity
) -> None:
    """A v1.5 asker's nonce signature beside a binding that the relay signed itself."""
    async with Relay(evil_id, good, strip=True) as relay, v15.Asker(as_v15(guest_id), relay.host.port, greet=()):
        (hello,) = await relay.host.heard("HELLO")
        own = client_of(evil_id, good.identity)
        list(own.receive_data(frame({"command": "HELLO_CHALLENGE", "payload": relay.to_good.challenge_payload})))
        hello["payload"]["cb"] = frames(own.data_to_send())[0]["payload"]["cb"]
        answer = await relay.use(hello)
    assert answer["status"] == "ERROR" and "another connection" in answer["error"]
    assert good.opened == []


# The client's side.


async def test_the_wrong_certificate_at_an_address_is_sent_no_byte(
    victim: Stub, host_id: Identity, evil_id: Identity
) -> None:
    async with recorder(server_context(evil_id.key_pem, evil_id.cert_pem)) as evil:
        with pytest.raises(HandshakeError, match=f"is {evil_id.node_id}, not {host_id.node_id}. Nothing was sent"):
            await victim.connect(PeerUri(v15.LOOPBACK, evil.port, host_id.node_id))
        await until(lambda: evil.ended == evil.connections, "the connection was dropped")
        assert evil.data == b""


async def test_a_certificate_that_names_the_victim_over_another_key_is_sent_no_byte(
    victim: Stub, host_id: Identity, evil_id: Identity
) -> None:
    liar = v15.make_identity(common_name=host_id.node_id, key=as_v15(evil_id).key)
    async with recorder(server_context(evil_id.key_pem, liar.cert_pem.encode())) as evil:
        with pytest.raises(HandshakeError, match="claims to be someone else"):
            await victim.connect(PeerUri(v15.LOOPBACK, evil.port, host_id.node_id))
        with pytest.raises(HandshakeError, match="claims to be someone else"):
            await victim.connect(PeerUri(v15.LOOPBACK, evil.port, evil_id.node_id))
        await until(lambda: evil.ended == evil.connections, "the connection was dropped")
        assert evil.data == b""


async def test_a_host_without_binding_is_not_signed_for(victim: Stub, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id)) as host:
        with pytest.raises(HandshakeError, match=NO_BINDING):
            await victim.connect(uri_of(host))
        assert host.received == []
    assert victim.opened == [] and victim.links.peers == []


async def test_a_marked_host_without_binding_is_linked_as_a_plain_peer(victim: Stub, host_id: Identity) -> None:
    victim.legacy.add(host_id.node_id)
    async with v15.Host(as_v15(host_id)) as host:
        peer = await victim.connect(uri_of(host))
        assert (peer.node_id, peer.extended, peer.session) == (host_id.node_id, False, "")
        assert (await host.peer()).node_id == victim.identity.node_id


async def test_a_host_that_calls_itself_another_in_its_ack_is_dropped(
    victim: Stub, host_id: Identity, evil_id: Identity
) -> None:
    victim.legacy.add(host_id.node_id)
    async with v15.Host(as_v15(host_id), ack_extra={"node_id": evil_id.node_id}) as host:
        with pytest.raises(HandshakeError, match="calls itself"):
            await victim.connect(uri_of(host))


async def test_a_hosts_refusal_is_shown_without_its_escapes(victim: Stub, host_id: Identity) -> None:
    victim.legacy.add(host_id.node_id)
    refusing = {"status": "ERROR", "error": "\x1b[2J\x1b]0;owned\x07go away\u202e"}
    async with v15.Host(as_v15(host_id), ack_extra=refusing) as host:
        with pytest.raises(HandshakeError, match="go away") as caught:
            await victim.connect(uri_of(host))
    assert not set(str(caught.value)) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    "extra",
    [{"cb": {"v": 1, "salt": "AAAA"}}, {"cb": {"v": 1}}, {"cb": 7}, {"nonce": "AAAA"}, {"nonce": None}],
    ids=["short salt", "no salt", "no object", "short nonce", "no nonce"],
)
async def test_a_malformed_challenge_ends_in_a_sentence(victim: Stub, host_id: Identity, extra: dict[str, Any]) -> None:
    victim.legacy.add(host_id.node_id)
    async with v15.Host(as_v15(host_id), challenge_extra=extra) as host:
        with pytest.raises(HandshakeError, match="No link to"):
            await victim.connect(uri_of(host))
        assert host.received == []


# The host's side.


async def test_a_peer_without_binding_reads_why_it_is_refused(good: Stub, guest_id: Identity) -> None:
    sentence = await refusal(v15.Asker(as_v15(guest_id), good.uri.port))
    assert NO_BINDING in sentence and '"legacy_ok": true' in sentence
    assert good.opened == [] and good.half_open == 0


async def test_a_marked_peer_without_binding_is_let_in_as_a_plain_one(good: Stub, guest_id: Identity) -> None:
    good.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port) as asker:
        assert "ext" not in asker.ack
        assert (asker.ack["node_id"], asker.ack["name"]) == (good.identity.node_id, "a stub")
        await until(lambda: good.said)
        assert not good.opened[0].extended
    assert good.said[0] == (guest_id.node_id, GetProviders())


async def test_a_wrong_key_is_refused(good: Stub, guest_id: Identity, evil_id: Identity) -> None:
    good.legacy |= {guest_id.node_id, evil_id.node_id}
    asker = v15.Asker(as_v15(guest_id), good.uri.port, key=as_v15(evil_id).key)
    assert "did not sign our challenge" in await refusal(asker)
    assert good.opened == []


async def test_another_nodes_id_over_ones_own_key_is_refused(good: Stub, guest_id: Identity, evil_id: Identity) -> None:
    good.legacy |= {guest_id.node_id, evil_id.node_id}
    asker = v15.Asker(as_v15(evil_id), good.uri.port, node_id=guest_id.node_id)
    assert "names a node that its key is not" in await refusal(asker)
    assert good.opened == []


async def test_a_cn_that_is_not_the_keys_hash_is_refused(good: Stub, guest_id: Identity, evil_id: Identity) -> None:
    good.legacy |= {guest_id.node_id, evil_id.node_id}
    liar = v15.make_identity(common_name=guest_id.node_id, key=as_v15(evil_id).key)
    for claimed in (guest_id.node_id, evil_id.node_id):
        asker = v15.Asker(liar, good.uri.port, node_id=claimed)
        assert "claims to be someone else" in await refusal(asker)
    assert good.opened == []


async def test_a_replayed_hello_is_refused(good: Stub, guest_id: Identity, evil_id: Identity) -> None:
    good.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port) as honest:
        await until(lambda: good.opened)
        replay = v15.Asker(as_v15(evil_id), good.uri.port, replay=honest.sent_hello)
        assert "did not sign our challenge" in await refusal(replay)
        await honest.send({"command": "GET_PROVIDERS", "payload": {}})
    assert len(good.opened) == 1


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed by another key"])
async def test_a_hello_that_names_a_connected_peer_does_not_touch_it(
    good: Stub, victim: Stub, evil_id: Identity, signed: bool
) -> None:
    good.legacy.add(victim.identity.node_id)
    peer = await victim.connect(good.uri)
    await until(lambda: good.opened)
    own = victim.identity
    for extra in ({}, {"ext": {"v": 1, "session": peer.session or "session-1"}}):
        asker = v15.Asker(
            as_v15(evil_id),
            good.uri.port,
            node_id=own.node_id,
            cert_pem=own.cert_pem.decode(),
            signed=signed,
            hello_extra=extra,
        )
        await refusal(asker)
    assert good.closed == [] and victim.closed == []
    assert good.links.peers == good.opened
    peer.send(GetProviders())
    await until(lambda: good.said, "the peer that was there still talks")
    good.opened[0].send(GetProviders())
    await until(lambda: victim.said, "and is still talked to")


async def test_a_second_hello_ends_the_connection(good: Stub, guest_id: Identity) -> None:
    good.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port, greet=()) as asker:
        assert asker.sent_hello is not None
        await asker.send(asker.sent_hello)
        with pytest.raises(ConnectionError):
            await asker.expect("HELLO_ACK")
    await until(lambda: good.closed)
    assert "HELLO is not allowed in OPEN" in good.closed[0][1]


@pytest.mark.parametrize("command", ["REMOTE_INFERENCE_REQUEST", "GET_PROVIDERS", "GROUP_SYNC", "HELLO_ACK"])
async def test_anything_before_the_hello_ends_the_connection(good: Stub, guest_id: Identity, command: str) -> None:
    message = {"command": command, "payload": {"request_id": "r", "prompt": "?"}, "status": "OK"}
    sentence = await refusal(v15.Asker(as_v15(guest_id), good.uri.port, replay=message))
    assert "not allowed in AWAIT_HELLO" in sentence or "before the handshake was over" in sentence
    assert good.opened == [] and good.said == []


async def test_a_request_in_the_same_write_as_a_hello_that_is_refused_is_not_heard(
    good: Stub, guest_id: Identity
) -> None:
    asker = v15.Asker(as_v15(guest_id), good.uri.port)
    await asker.open()
    await asker.challenge()
    hello = {
        "command": "HELLO",
        "payload": {"node_id": guest_id.node_id, "name": "", "cert_pem": "x", "nonce_signature": ""},
    }
    request = {"command": "REMOTE_INFERENCE_REQUEST", "payload": {"request_id": "r", "prompt": "?"}}
    await asker.send_raw(v15.encode_frame(hello) + v15.encode_frame(request))
    assert (await asker.receive())["status"] == "ERROR"
    await asker.close()
    assert good.opened == [] and good.said == []


async def test_a_frame_of_ten_gigabytes_before_the_hello_is_refused_with_a_sentence(
    good: Stub, guest_id: Identity
) -> None:
    asker = v15.Asker(as_v15(guest_id), good.uri.port, probe=False)
    await asker.open()
    await asker.challenge()
    await asker.send_raw(b"9999999999" + b"x" * 100_000)
    answer = await asker.receive()
    assert answer["status"] == "ERROR" and "limit is 16,384" in answer["error"]
    await asker.close()
    await until(lambda: good.half_open == 0)


async def test_the_name_that_a_peer_gives_is_shown_without_its_escapes(good: Stub, guest_id: Identity) -> None:
    good.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port, name="\x1b[31mroot\u202e\n[admin]"):
        await until(lambda: good.opened)
        assert good.opened[0].name == "root [admin]"


# Strangers: let through the door, so that the owner sees them, and no further.


@pytest.mark.parametrize(
    ("frame_bytes", "frames_sent"), [(60, 200), (60_000, 20), (1_000_000, 1)], ids=["many", "large", "one mebibyte"]
)
async def test_a_stranger_that_sends_too_much_is_cut_off(
    good: Stub, guest_id: Identity, frame_bytes: int, frames_sent: int
) -> None:
    good.legacy.add(guest_id.node_id)
    good.strangers.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port, greet=()) as asker:
        noise = v15.encode_frame({"command": "GROUP_SYNC", "payload": "x" * frame_bytes})
        with contextlib.suppress(ConnectionError):
            await asker.send_raw(noise * frames_sent)
        await until(lambda: good.closed, "it was cut off")
    assert "was not let in" in good.closed[0][1]


async def test_what_a_messenger_sends_on_connecting_is_not_too_much_for_a_stranger(
    good: Stub, guest_id: Identity
) -> None:
    good.legacy.add(guest_id.node_id)
    good.strangers.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port) as asker:
        payload = {"request_id": "r-1", "prompt": "x" * 4000}
        await asker.send({"command": "REMOTE_INFERENCE_REQUEST", "payload": payload})
        await until(lambda: len(good.said) == 2, "it was heard")
        assert good.closed == []


async def test_a_peer_that_was_let_in_may_send_a_mebibyte(good: Stub, guest_id: Identity) -> None:
    good.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), good.uri.port, greet=()) as asker:
        payload = {"request_id": "r-1", "prompt": "x" * 1_000_000}
        await asker.send({"command": "REMOTE_INFERENCE_REQUEST", "payload": payload})
        await until(lambda: good.said, "it was heard")


# Sessions.


async def test_two_sessions_of_one_node_do_not_touch_each_other(good: Stub, guest_id: Identity) -> None:
    async with node(guest_id, listen=None, session="one") as one, node(guest_id, listen=None, session="two") as two:
        await one.connect(good.uri)
        await two.connect(good.uri)
        await until(lambda: len(good.opened) == 2)
        assert {peer.session for peer in good.links.peers} == {"one", "two"}
        one.links.peers[0].close("done")
        await until(lambda: good.closed)
        assert [peer.session for peer in good.links.peers] == ["two"] and two.closed == []


async def test_a_new_connection_of_a_session_replaces_its_old_one(good: Stub, guest_id: Identity) -> None:
    async with node(guest_id, listen=None) as before, node(guest_id, listen=None) as after:
        await before.connect(good.uri)
        await after.connect(good.uri)
        await until(lambda: before.closed)
        assert len(good.links.peers) == 1 and after.closed == []


async def test_two_connects_at_once_end_in_one_link_that_works(good: Stub, victim: Stub) -> None:
    await asyncio.gather(*(victim.connect(good.uri) for _ in range(8)))
    await until(lambda: len(victim.links.peers) == 1 and len(good.links.peers) == 1, "one link is left at each end")
    await asyncio.sleep(0.2)
    assert len(victim.links.peers) == 1 and len(good.links.peers) == 1
    victim.links.peers[0].send(GetProviders())
    await until(lambda: good.said, "it works")


async def test_a_hello_of_ours_is_valid_json_of_the_v15_shape(good: Stub, victim: Stub) -> None:
    victim.legacy.add(good.identity.node_id)
    async with v15.Host(as_v15(good.identity)) as host:
        await victim.connect(uri_of(host))
        (hello,) = await host.heard("HELLO")
        assert {"node_id", "name", "cert_pem", "nonce_signature"} <= set(hello["payload"])
        assert json.loads(json.dumps(hello)) == hello
        assert host.refusals == []
