"""The ciphertext's end of a relayed stream, with a carrier that does what the test says."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from dpc_jupyter.transports import relay
from dpc_jupyter.transports.relay import Tunnel, open_tunnel
from transports.nodes import until


class Carrier:
    """Takes everything, and gives it to the tunnel at the other end, if there is one, when it likes."""

    def __init__(self) -> None:
        self.sent = 0
        self.closed: list[str] = []
        self.other: Tunnel | None = None
        self._random = random.Random(7)
        self._on_its_way: list[tuple[str, bytes | int]] = []

    def send_data(self, data: bytes, /) -> None:
        self.sent += len(data)
        self._bring("feed", data)

    def send_credit(self, count_bytes: int, /) -> None:
        self._bring("credit", count_bytes)

    def send_close(self, reason: str, /) -> None:
        self.closed.append(reason)

    def _bring(self, what: str, load: bytes | int) -> None:
        self._on_its_way.append((what, load))
        asyncio.get_running_loop().call_later(self._random.choice((0, 0, 0.001, 0.003)), self._arrive)

    def _arrive(self) -> None:
        what, load = self._on_its_way.pop(0)
        if self.other is not None:
            assert getattr(self.other, what)(load) is not False


async def fill(sock: socket.socket, carrier: Carrier) -> None:
    """Write until the window and the kernel's buffer are full."""
    before = -1
    while before != carrier.sent or carrier.sent < relay.WINDOW_BYTES:
        before = carrier.sent
        try:
            while True:
                sock.send(bytes(16_384))
        except BlockingIOError:
            await asyncio.sleep(0.02)


async def test_a_stream_whose_other_end_takes_no_more_is_over_although_it_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "STALL_S", 0.2)
    carrier, ended = Carrier(), asyncio.Event()
    tunnel, sock = await open_tunnel(carrier, ended.set)
    await fill(sock, carrier)
    for _ in range(4):
        await asyncio.sleep(0.1)
        tunnel.credit(1)
    assert not ended.is_set(), "it takes some"
    sock.close()
    async with asyncio.timeout(5):
        await ended.wait()
    assert len(carrier.closed) == 1


async def test_a_stream_that_was_full_and_is_idle_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "STALL_S", 0.1)
    carrier, ended = Carrier(), asyncio.Event()
    tunnel, sock = await open_tunnel(carrier, ended.set)
    await fill(sock, carrier)
    while not tunnel._may_send:
        tunnel.credit(relay.WINDOW_BYTES)
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.3)
    assert not ended.is_set()
    sock.close()
    await until(ended.is_set)


@pytest.mark.parametrize("window_bytes", [1000, 4000, 131_072])
async def test_all_bytes_of_both_directions_arrive_however_late_each_piece_and_credit_is(
    monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    monkeypatch.setattr(relay, "WINDOW_BYTES", window_bytes)
    loop, carriers = asyncio.get_running_loop(), (Carrier(), Carrier())
    tunnels, socks = zip(*[await open_tunnel(carrier, lambda: None) for carrier in carriers], strict=True)
    carriers[0].other, carriers[1].other = tunnels[1], tunnels[0]
    whole = random.Random(1).randbytes(window_bytes * 40)

    async def read(sock: socket.socket) -> bytes:
        heard = b""
        while len(heard) < len(whole):
            heard += await loop.sock_recv(sock, 10 * window_bytes)
            await asyncio.sleep(0.002 * (len(heard) % 3))
        return heard

    async with asyncio.timeout(30):
        *_, first, second = await asyncio.gather(
            *(loop.sock_sendall(sock, whole) for sock in socks), *(read(sock) for sock in socks)
        )
    assert first == second == whole
    for sock, tunnel in zip(socks, tunnels, strict=True):
        sock.close()
        tunnel.close("the test is over")
    await asyncio.sleep(0.01)
