"""Connections that never finish their HELLO: how many may wait, for how long, and who gives way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import dptp_v15_peer as v15
import pytest
from protocol.ends import as_v15

from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links import links
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.transports import tls
from dpc_jupyter.transports.gate import HANDSHAKE_S, HalfOpen
from dpc_jupyter.transports.tls import HALF_OPEN_LIMIT, TlsStream, client_context
from transports.nodes import LOOPBACK, Stub, node, until

SLOW = 500


@pytest.fixture
async def faults() -> list[dict[str, Any]]:
    """What the loop was told that nobody caught."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


async def bare(port: int, source: str = LOOPBACK) -> socket.socket:
    """A TCP connection from this address of the loopback net."""
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, (LOOPBACK, port))
    except BaseException:
        sock.close()
        raise
    return sock


def alive(sock: socket.socket) -> bool:
    """Whether the other side still holds it."""
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def waiting(host: Stub) -> Counter[str]:
    gate = host.links._listener._gate  # type: ignore[union-attr]
    return Counter(half_open.source for half_open in gate._waiting)


def test_the_limits_are_those_of_the_protocol() -> None:
    assert (HANDSHAKE_S, HALF_OPEN_LIMIT) == (5.0, 64)


async def test_an_address_that_is_alone_may_hold_every_place_and_its_oldest_gives_way(host: Stub) -> None:
    socks = []
    for number in range(68):
        socks.append(await bare(host.uri.port))
        expected = min(number + 1, 64)
        await until(lambda: host.half_open == expected)  # noqa: B023
    await until(lambda: [alive(sock) for sock in socks] == [False] * 4 + [True] * 64, "the oldest four were dropped")
    for sock in socks:
        sock.close()
    await until(lambda: host.half_open == 0, "all places are free")


async def dialled_at_once(host: Stub, identity: Identity, count: int) -> None:
    """As many kernels of one JupyterHub, all of them at the gate before the first one's TLS handshake begins."""
    listener = host.links._listener
    assert listener is not None
    secure = listener._secure

    async def later(sock: socket.socket, stream: TlsStream, half_open: HalfOpen) -> None:
        await asyncio.sleep(0.3)
        await secure(sock, stream, half_open)

    listener._secure = later  # type: ignore[method-assign]
    async with contextlib.AsyncExitStack() as stack:
        kernels = [
            await stack.enter_async_context(node(identity, listen=None, session=f"kernel-{number}"))
            for number in range(count)
        ]
        peers = await asyncio.gather(*(kernel.connect(host.uri) for kernel in kernels))
        assert len({id(peer) for peer in peers if not peer.closed}) == count
        await until(lambda: len(host.links.peers) == count)


async def test_sixteen_kernels_that_dial_at_once_from_one_address_all_get_in(host: Stub, guest_id: Identity) -> None:
    await dialled_at_once(host, guest_id, 16)


async def test_they_get_in_beside_one_address_that_holds_every_place_in_silence(
    host: Stub, guest_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 60.0)
    socks = [await bare(host.uri.port, "127.0.0.9") for _ in range(64)]
    await until(lambda: host.half_open == 64, "every place is taken")
    await dialled_at_once(host, guest_id, 16)
    assert 48 <= host.half_open < 64, "no more of them gave way than had to"
    for sock in socks:
        sock.close()


async def test_64_places_in_all_and_the_greediest_address_gives_way(host: Stub) -> None:
    lone = await bare(host.uri.port, "127.0.0.2")
    socks = [await bare(host.uri.port, f"127.0.1.{address + 1}") for address in range(12) for _ in range(8)]
    await until(lambda: host.half_open == 64, "every place is taken")
    await asyncio.sleep(0.1)
    assert host.half_open == 64
    counted = waiting(host)
    assert max(counted.values()) <= 8
    assert counted["127.0.0.2"] == 1 and alive(lone), "who holds one place does not give way to who holds eight"
    for sock in (lone, *socks):
        sock.close()
    await until(lambda: host.half_open == 0, "all places are free")


async def test_an_ipv6_neighbourhood_counts_as_one_address() -> None:
    assert tls._limited_as("2001:db8:1:2::1") == tls._limited_as("2001:db8:1:2:ffff::9")
    assert tls._limited_as("2001:db8:1:2::1") != tls._limited_as("2001:db8:1:3::1")
    assert tls._limited_as("::ffff:192.0.2.1") == tls._limited_as("192.0.2.1") == "192.0.2.1"
    assert tls._limited_as("fe80::1%eth0") == tls._limited_as("fe80::2")


class SlowSockets:
    """Sockets that send a TLS ClientHello at one byte a second, and come back when they are dropped."""

    RECORD = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)

    def __init__(self, port: int, sources: list[str]) -> None:
        self.port, self.sources = port, sources
        self.socks: list[socket.socket] = []
        self.dropped = 0
        self._next = 0

    async def open(self) -> None:
        for _ in range(SLOW):
            self.socks.append(await self._one())

    async def _one(self) -> socket.socket:
        self._next += 1
        return await bare(self.port, self.sources[self._next % len(self.sources)])

    async def drip(self, seconds: int) -> None:
        for second in range(seconds):
            for at, sock in enumerate(self.socks):
                try:
                    sock.send(self.RECORD[second : second + 1])
                except OSError:
                    sock.close()
                    self.dropped += 1
                    self.socks[at] = await self._one()
            await asyncio.sleep(1.0)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


@pytest.mark.parametrize(
    "sources",
    [["127.0.0.9"], [f"127.0.2.{n}" for n in range(1, 21)], [LOOPBACK]],
    ids=["one address", "twenty addresses", "the good peer's own address"],
)
async def test_a_good_peer_connects_within_2_s_beside_500_slow_sockets(
    host: Stub, guest: Stub, sources: list[str], faults: list[dict[str, Any]]
) -> None:
    slow = SlowSockets(host.uri.port, sources)
    await slow.open()
    dripping = asyncio.get_running_loop().create_task(slow.drip(30))
    try:
        for _ in range(3):
            await asyncio.sleep(0.5)
            assert host.half_open <= HALF_OPEN_LIMIT
            began = time.monotonic()
            peer = await guest.connect(host.uri, 5.0)
            assert time.monotonic() - began < 2.0
            peer.close("once more")
            await until(lambda: not guest.links.peers, "the link ended")
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        slow.close()
    assert len(host.opened) == 3
    await until(lambda: host.half_open == 0, "all places are free")
    assert faults == []


async def test_a_socket_that_never_starts_tls_is_dropped(
    host: Stub, monkeypatch: pytest.MonkeyPatch, faults: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.3)
    sock = await bare(host.uri.port)
    await until(lambda: host.half_open == 1)
    await until(lambda: not alive(sock), "it was dropped")
    assert host.half_open == 0
    sock.close()
    assert faults == []


async def test_a_peer_that_never_says_hello_is_dropped_and_its_place_is_free(
    host: Stub, guest_id: Identity, monkeypatch: pytest.MonkeyPatch, faults: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.4)
    async with v15.Asker(as_v15(guest_id), host.uri.port, silent=True, probe=False) as asker:
        assert host.half_open == 1
        with pytest.raises(ConnectionError):
            await asker.receive()
        await until(lambda: host.half_open == 0, "its place is free")
    assert host.opened == [] and host.closed == []
    assert faults == []


async def test_a_hello_at_one_byte_at_a_time_is_dropped_too(
    host: Stub, guest_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that come do not win more time: the clock runs from accept to the finished HELLO."""
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.5)
    async with v15.Asker(as_v15(guest_id), host.uri.port, silent=True, probe=False) as asker:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"0000009000" + b'{"command":"HELLO",' + b" " * 200:
                await asker.send_raw(bytes([byte]))
                await asyncio.sleep(0.05)
            pytest.fail("it was let wait")
        assert time.monotonic() - began < 5.0
    await until(lambda: host.half_open == 0)


async def test_an_authenticated_peer_is_not_dropped_when_the_clock_ends(
    host: Stub, guest: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.3)
    peer = await guest.connect(host.uri)
    await asyncio.sleep(0.6)
    assert not peer.closed and host.closed == []


async def test_a_bare_connection_that_is_dropped_costs_nothing(
    host: Stub, guest: Stub, faults: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(200):
        (await bare(host.uri.port)).close()
    await until(lambda: host.half_open == 0, "all places are free")
    await guest.connect(host.uri)
    assert len(host.opened) == 1 and host.closed == []
    assert faults == [] and caplog.records == []


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"0000000002{}", b"\x16\x03\x01\xff\xff" + b"A" * 5000, b"\0" * 1000, b"SSH-2.0-x\r\n"],
    ids=["http", "dptp without tls", "a broken record", "zeros", "ssh"],
)  # fmt: skip
async def test_garbage_instead_of_tls_ends_that_connection_alone(
    host: Stub, guest: Stub, garbage: bytes, faults: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    sock = await bare(host.uri.port)
    await asyncio.get_running_loop().sock_sendall(sock, garbage)
    await until(lambda: not alive(sock), "it was dropped")
    await until(lambda: host.half_open == 0, "its place is free")
    sock.close()
    await guest.connect(host.uri)
    assert faults == [] and caplog.records == []


async def refused_once(port: int, context: ssl.SSLContext) -> None:
    """Finish TLS, send a frame that is refused, and go."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context)
    writer.write(b"9999999999" + b"x" * 20_000)
    with contextlib.suppress(OSError):
        await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_refused_peers_leave_no_memory_behind(host: Stub, faults: list[dict[str, Any]]) -> None:
    context = client_context()
    for _ in range(10):
        await refused_once(host.uri.port, context)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(10):
            await refused_once(host.uri.port, context)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(80):
            await refused_once(host.uri.port, context)
        await until(lambda: host.half_open == 0)
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 80 * 1024, "less than 1 KiB each"
    assert peak - before < 16 * 2**20
    left = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, Peer | TlsStream))
    assert sum(left.values()) <= 4, left
    assert faults == []


async def test_a_refused_peer_that_does_not_hang_up_is_cut_off_soon(host: Stub, guest_id: Identity) -> None:
    """A TLS close waits for the other side's: half a minute by default, and beyond the gate that is anybody's."""
    host.legacy.add(guest_id.node_id)
    asker = v15.Asker(as_v15(guest_id), host.uri.port, greet=())
    await asker.connect()
    transport = cast(asyncio.Transport, asker.link._writer.transport)  # uvloop's own class is not a subclass
    await asker.send_raw(b"not a frame")
    transport.pause_reading()
    try:
        await until(lambda: host.closed, "the link ended")
        await until(lambda: not host.links._streams, "its descriptor is free", 8.0)
    finally:
        transport.abort()
        await asker.close()


@pytest.fixture
async def turned_away(host: Stub, guest_id: Identity, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[v15.Asker]:
    """A peer that the host turns away after its HELLO, that reads nothing and does not hang up."""
    monkeypatch.setattr(links, "PEERS_LIMIT", 0)
    monkeypatch.setattr(tls, "_SHUTDOWN_S", 60.0)
    monkeypatch.setattr(tls, "HANDSHAKE_S", 60.0)
    host.legacy.add(guest_id.node_id)
    async with v15.Asker(as_v15(guest_id), host.uri.port, silent=True) as asker:
        transport = cast(asyncio.Transport, asker.link._writer.transport)
        transport.pause_reading()
        hello = asyncio.create_task(asker.hello())
        (peer,) = host.links._streams
        await until(lambda: peer.closed, "it was turned away")
        yield asker
        transport.abort()
        await asyncio.gather(hello, return_exceptions=True)


async def test_a_peer_that_is_turned_away_has_a_moment_to_read_why_and_no_more(
    host: Stub, turned_away: v15.Asker
) -> None:
    assert host.links._streams, "it may still read"
    await until(lambda: not host.links._streams, "its descriptor is free", 5.0)


async def test_a_peer_that_is_turned_away_keeps_its_place_at_the_gate_until_it_is_gone(
    host: Stub, turned_away: v15.Asker
) -> None:
    assert host.half_open == 1
    await until(lambda: not host.links._streams)
    assert host.half_open == 0


async def test_a_full_listener_drops_what_waits_when_it_closes(host_id: Identity) -> None:
    async with node(host_id) as closing:
        socks = [await bare(closing.uri.port, f"127.0.3.{n}") for n in range(1, 30)]
        await until(lambda: closing.half_open == 29)
    await asyncio.sleep(0.1)
    assert not any(alive(sock) for sock in socks)
    for sock in socks:
        sock.close()
