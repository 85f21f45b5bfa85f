"""Direct TLS between real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
import warnings
from pathlib import Path

import dptp_v15_peer as v15
import pytest
from protocol.ends import as_v15, frames

from dpc_jupyter.errors import ConnectError
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.protocol.messages import GetProviders
from dpc_jupyter.transports import tls
from dpc_jupyter.transports.tls import DEFAULT_PORT, TlsStream, client_context, dial, server_context
from transports.nodes import LOOPBACK, Ear, Stub, node, recorder, until


def at(uri: PeerUri, address: str) -> PeerUri:
    return PeerUri(address, uri.port, uri.node_id)


async def talks(guest: Stub, host: Stub, uri: PeerUri | None = None) -> None:
    peer = await guest.connect(uri or host.uri)
    peer.send(GetProviders())
    await until(lambda: (guest.identity.node_id, GetProviders()) in host.said, "the message came")


def test_the_default_port_is_not_jupyters() -> None:
    assert DEFAULT_PORT == 8889


async def test_two_nodes_link_and_talk(guest: Stub, host: Stub) -> None:
    await talks(guest, host)
    (opened,) = host.opened
    assert (opened.node_id, opened.kind, opened.outgoing) == (guest.identity.node_id, "TLS", False)
    assert opened.address == LOOPBACK
    assert host.half_open == 0


@pytest.mark.parametrize(
    ("listen", "dialled"),
    [
        (LOOPBACK, LOOPBACK),
        ("::1", "::1"),
        ("", LOOPBACK),
        ("", "::1"),
        ("0.0.0.0", LOOPBACK),
        ("::", "::1"),
        ("localhost", "localhost"),
        (LOOPBACK, "localhost"),
    ],
)
async def test_ipv4_ipv6_and_both_at_once(host_id: Identity, guest: Stub, listen: str, dialled: str) -> None:
    async with node(host_id, listen=listen) as host:
        await talks(guest, host, at(host.uri, dialled))
        assert "::ffff:" not in host.opened[0].address


async def test_an_address_of_a_dual_stack_listener_is_shown_as_the_plain_ipv4_one(
    host_id: Identity, guest: Stub
) -> None:
    async with node(host_id, listen="") as host:
        await talks(guest, host, at(host.uri, LOOPBACK))
        assert host.opened[0].address == LOOPBACK


@pytest.mark.parametrize("listen", [LOOPBACK, "", "localhost"])
async def test_a_taken_port_gives_way_to_the_next_one(host_id: Identity, guest: Stub, listen: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        async with node(host_id, listen=listen, port=port) as host:
            assert port < host.uri.port < port + 20
            await talks(guest, host, at(host.uri, LOOPBACK))


async def test_two_nodes_that_want_the_same_port_both_get_one(host_id: Identity, guest_id: Identity) -> None:
    async with node(host_id) as first, node(guest_id, port=first.uri.port) as second:
        assert first.uri.port < second.uri.port < first.uri.port + 20


async def test_when_every_port_is_taken_the_sentence_says_which(
    host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_PORTS_TRIED", 1)
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectError, match=f"{port} .* taken"):
            async with node(host_id, port=port):
                pass


async def test_an_address_of_another_machine_is_a_sentence(host_id: Identity) -> None:
    with pytest.raises(ConnectError, match=r"Cannot listen on 192\.0\.2\.1"):
        async with node(host_id, listen="192.0.2.1"):
            pass


async def test_a_listener_that_is_closed_frees_its_port(host_id: Identity) -> None:
    async with node(host_id) as first:
        port = first.uri.port
    async with node(host_id, port=port) as second:
        assert second.uri.port == port


# Dialling.


async def test_nobody_there_is_a_sentence(guest: Stub, host_id: Identity) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectError, match=f"Nothing listens at {LOOPBACK}:{port}"):
        await guest.connect(PeerUri(LOOPBACK, port, host_id.node_id))


async def test_somebody_who_does_not_speak_tls_is_a_sentence(guest: Stub, host_id: Identity) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ESMTP\r\n" * 10)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, LOOPBACK, 0)
    async with server:
        with pytest.raises(ConnectError, match=r"TLS|No connection"):
            await guest.connect(PeerUri(LOOPBACK, server.sockets[0].getsockname()[1], host_id.node_id))


async def test_somebody_who_accepts_and_says_nothing_is_given_up(guest: Stub, host_id: Identity) -> None:
    async with recorder(None) as silent:
        with pytest.raises(ConnectError, match=r"within 0\.3 s"):
            await guest.connect(PeerUri(LOOPBACK, silent.port, host_id.node_id), 0.3)
        await until(lambda: silent.ended == 1, "the connection was dropped")


async def test_a_host_that_speaks_tls_but_never_challenges_is_given_up(guest: Stub, host_id: Identity) -> None:
    async with recorder(server_context(host_id.key_pem, host_id.cert_pem)) as silent:
        with pytest.raises(ConnectError, match=r"did not finish its handshake within 0\.5 s"):
            await guest.connect(PeerUri(LOOPBACK, silent.port, host_id.node_id), 0.5)
        await until(lambda: silent.ended == 1, "the connection was dropped")
        assert silent.data == b""


async def test_a_name_that_does_not_resolve_is_a_sentence(guest: Stub, host_id: Identity) -> None:
    with pytest.raises(ConnectError, match=r"No connection to host\.invalid"):
        await guest.connect(PeerUri("host.invalid", 8889, host_id.node_id))


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "exa mple", "\0", ".", "ä" * 80])
async def test_a_name_that_cannot_be_one_is_a_sentence(guest: Stub, host_id: Identity, host: str) -> None:
    with pytest.raises(ConnectError):
        await guest.connect(PeerUri(host, 8889, host_id.node_id))


# Versions.


def old_tls(side: int) -> ssl.SSLContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(side)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_no_side_goes_below_tls_1_2(host_id: Identity) -> None:
    for context in (client_context(), server_context(host_id.key_pem, host_id.cert_pem)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.maximum_version is ssl.TLSVersion.MAXIMUM_SUPPORTED


async def test_a_client_of_tls_1_1_is_refused(host: Stub, guest: Stub) -> None:
    """The distribution's own policy is lifted, so that it is ours that refuses."""
    context = host.links._listener._context  # type: ignore[union-attr]
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(LOOPBACK, host.uri.port, ssl=old_tls(ssl.PROTOCOL_TLS_CLIENT))
    await until(lambda: host.half_open == 0, "its place is free")
    await talks(guest, host)


async def test_a_server_of_tls_1_1_is_refused(guest: Stub, host_id: Identity, tmp_path: Path) -> None:
    context = old_tls(ssl.PROTOCOL_TLS_SERVER)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(host_id.key_pem + host_id.cert_pem)
    context.load_cert_chain(chain)
    guest.links._client_context.set_ciphers("ALL:@SECLEVEL=0")
    async with recorder(context) as old:
        with pytest.raises(ConnectError):
            await guest.connect(PeerUri(LOOPBACK, old.port, host_id.node_id))
        assert old.data == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_a_client_of_tls_1_2_or_1_3_is_accepted(host: Stub, guest_id: Identity, version: ssl.TLSVersion) -> None:
    host.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), host.uri.port, newest_tls=version) as asker:
        assert asker.ack["status"] == "OK"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_a_server_of_tls_1_2_or_1_3_is_accepted(guest: Stub, host_id: Identity, version: ssl.TLSVersion) -> None:
    guest.legacy.add(host_id.node_id)
    async with v15.Host(as_v15(host_id), newest_tls=version) as v15_host:
        peer = await guest.connect(PeerUri.parse(v15_host.address))
        assert peer.node_id == host_id.node_id


async def test_a_session_is_never_resumed(host: Stub) -> None:
    """A resumed session would skip the certificate that the handshake binds to."""
    context = client_context()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.maximum_version = version
        reader, writer = await asyncio.open_connection(LOOPBACK, host.uri.port, ssl=context)
        await reader.readexactly(10)
        session = writer.get_extra_info("ssl_object").session
        writer.transport.abort()
        assert session is None or not session.has_ticket


def test_a_peer_cannot_make_us_shake_hands_again(host_id: Identity) -> None:
    assert server_context(host_id.key_pem, host_id.cert_pem).options & ssl.OP_NO_RENEGOTIATION


def test_the_private_key_is_left_in_no_file(host_id: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server_context(host_id.key_pem, host_id.cert_pem)
    assert list(tmp_path.iterdir()) == []


# The stream.


async def test_what_came_before_a_receiver_is_kept_for_it(host: Stub) -> None:
    stream = await dial(LOOPBACK, host.uri.port, client_context(), 5.0)
    await asyncio.sleep(0.2)
    ear = Ear()
    stream.attach(ear)
    await until(lambda: ear.heard, "the challenge came")
    assert frames(ear.heard)[0]["command"] == "HELLO_CHALLENGE"
    stream.abort()
    await until(lambda: ear.ends, "the end was told")
    await asyncio.sleep(0.05)
    assert len(ear.ends) == 1


def test_bytes_that_come_although_nobody_listens_yet_are_kept_in_order() -> None:
    """A TLS layer may have decrypted more than it was asked for before it was told to pause."""
    stream, ear = TlsStream(), Ear()
    stream.data_received(b"a")
    stream.data_received(b"b")
    stream.attach(ear)
    stream.data_received(b"c")
    assert ear.heard == b"abc"


async def test_a_stream_that_ended_before_a_receiver_tells_it_at_once(host: Stub) -> None:
    stream = await dial(LOOPBACK, host.uri.port, client_context(), 5.0)
    stream.abort()
    await asyncio.sleep(0.1)
    ear = Ear()
    stream.attach(ear)
    assert len(ear.ends) == 1
    assert stream.write(b"too late") in (True, False)


async def test_a_dialled_stream_shows_the_certificate_that_it_saw(host: Stub) -> None:
    stream = await dial(LOOPBACK, host.uri.port, client_context(), 5.0)
    assert stream.server_cert_der == host.identity.cert_der
    assert stream.address == f"{LOOPBACK}:{host.uri.port}"
    stream.abort()
    await asyncio.sleep(0.05)
