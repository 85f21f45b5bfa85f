"""A reader that does not read, and one that falls silent."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from dpc_jupyter.errors import LocalProtocolError
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links import liveness
from dpc_jupyter.node.links import peer as peer_module
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.protocol.connection import State
from dpc_jupyter.protocol.framing import encode_frame
from dpc_jupyter.protocol.messages import GetProviders, Goodbye, RemoteInferenceChunk
from dpc_jupyter.scheduling import FrameBudget
from dpc_jupyter.transports.gate import HalfOpen
from dpc_jupyter.transports.tls import Listener, TlsStream, client_context, dial, server_context
from transports.nodes import LOOPBACK, Ear, Stub, node, until

PIECE = b"x" * 65536


@pytest.fixture
async def streams(host_id: Identity) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Two ends of a raw TLS stream, the dialler's first."""
    accepted: asyncio.Future[TlsStream] = asyncio.get_running_loop().create_future()

    def accept(stream: TlsStream, half_open: HalfOpen) -> None:
        half_open.done()
        accepted.set_result(stream)

    context = server_context(host_id.key_pem, host_id.cert_pem)
    listener = Listener(context, host_id.cert_der, accept)
    listener.start(LOOPBACK, 0)
    client = await dial(LOOPBACK, listener.port, client_context(), 5.0)
    client.attach(Ear())  # asyncio sends the end of a TLS 1.3 handshake once somebody reads
    async with asyncio.timeout(10):
        server = await accepted
    yield client, server
    client.abort()
    server.abort()
    await listener.close()
    await asyncio.sleep(0.05)


@pytest.fixture
async def linked(host_id: Identity, guest_id: Identity) -> AsyncIterator[tuple[Stub, Stub, Peer, Peer]]:
    """Host and guest, and the link between them as each sees it."""
    async with node(host_id) as host, node(guest_id, listen=None) as guest:
        theirs = await guest.connect(host.uri)
        await until(lambda: host.opened)
        yield host, guest, host.opened[0], theirs
        theirs.abort("the test is over")  # a paused reader would not notice a close
        host.opened[0].abort("the test is over")


def stop_reading(peer: Peer) -> None:
    stream = peer._stream
    assert isinstance(stream, TlsStream) and stream._transport is not None
    stream._transport.pause_reading()


def read_again(peer: Peer) -> None:
    stream = peer._stream
    assert isinstance(stream, TlsStream) and stream._transport is not None
    stream._transport.resume_reading()


async def test_a_full_buffer_says_so_and_says_when_it_has_drained(streams: tuple[TlsStream, TlsStream]) -> None:
    client, server = streams
    sender, reader = Ear(), Ear()
    client.attach(sender)
    written = 0
    for _ in range(1000):
        written += len(PIECE)
        if not client.write(PIECE):
            break
        await asyncio.sleep(0)
    else:
        pytest.fail("64 MiB were taken for a reader that never reads")
    assert client.unsent_bytes() > 0
    assert sender.drained == 0
    assert len(server._early) <= 8 * len(PIECE), "nothing is read before somebody listens"
    server.attach(reader)
    await until(lambda: sender.drained, "the buffer drained")
    assert client.write(b"")
    await until(lambda: len(reader.heard) == written, "everything arrived")
    assert client.unsent_bytes() == 0


class Box:
    """An outbox that always has more."""

    def __init__(self, peer: Peer, pieces: int) -> None:
        self.peer, self.left, self.emitted = peer, pieces, 0

    def emit(self) -> None:
        self.peer.send(RemoteInferenceChunk("r", self.emitted, "x" * 32_000))
        self.emitted += 1
        self.left -= 1


async def test_room_waits_for_a_reader_that_does_not_read(linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    _, guest, peer, theirs = linked
    stop_reading(theirs)
    box = Box(peer, 3000)
    for _ in range(3000):
        peer.send_when_room(box)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not peer.has_room:
            await asyncio.sleep(0.2)  # the kernel takes some more
            if not peer.has_room:
                break
    else:
        pytest.fail("96 MB were taken for a reader that never reads")
    emitted = box.emitted
    for _ in range(20):
        peer.send_when_room(box)
        await asyncio.sleep(0.01)
    assert box.emitted == emitted and not peer.has_room, "nothing is made while there is no room"
    read_again(theirs)
    await until(lambda: peer.has_room, "room")
    await until(lambda: box.emitted == emitted + 1, "the outbox was asked again")
    await until(lambda: len(guest.said) == box.emitted, "everything arrived")
    assert [message.index for _, message in guest.said if isinstance(message, RemoteInferenceChunk)] == list(
        range(box.emitted)
    )


async def test_nobody_waits_for_room_on_a_link_that_has_ended(linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    _, _, peer, theirs = linked
    stop_reading(theirs)
    for number in range(3000):
        peer.send(RemoteInferenceChunk("r", number, "x" * 32_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not peer.has_room:
            await asyncio.sleep(0.2)
            if not peer.has_room:
                break
    assert not peer.has_room
    peer.abort("enough")
    assert peer.has_room


async def test_a_peer_that_asks_and_never_reads_is_cut_off(
    linked: tuple[Stub, Stub, Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert peer_module.UNSENT_LIMIT_BYTES == 4 * 1024 * 1024
    monkeypatch.setattr(peer_module, "UNSENT_LIMIT_BYTES", 1024 * 1024)
    host, _, peer, theirs = linked
    stop_reading(theirs)
    for number in range(3000):
        if peer.closed:
            break
        peer.send(RemoteInferenceChunk("r", number, "x" * 32_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await until(lambda: host.closed, "the link ended")
    assert "does not read" in host.closed[0][1]


async def test_a_slow_but_honest_reader_is_not_cut_off(linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    host, guest, peer, theirs = linked
    stop_reading(theirs)
    sent = 0
    for _ in range(3000):
        peer.send(RemoteInferenceChunk("r", sent, "x" * 32_000))
        sent += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not peer.has_room:
            break
    await asyncio.sleep(0.2)
    read_again(theirs)
    await until(lambda: len(guest.said) == sent, "everything arrived")
    assert host.closed == []


# Silence.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (liveness.PING_EVERY_S, liveness.SILENCE_S) == (5.0, 30.0)
    monkeypatch.setattr(liveness, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(liveness, "SILENCE_S", 0.8)


async def test_a_silent_peer_is_dropped_and_named_so(quick: None, linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    host, guest, _, theirs = linked
    stop_reading(theirs)
    theirs._timer.cancel()  # type: ignore[union-attr]  # it neither asks nor answers
    await until(lambda: host.closed, "it was dropped")
    assert host.closed[0] == (guest.identity.node_id, "it was silent for 0.8 s")
    assert host.links.peers == []


async def test_a_host_that_falls_silent_is_dropped_by_its_guest(
    quick: None, linked: tuple[Stub, Stub, Peer, Peer]
) -> None:
    _, guest, peer, _ = linked
    stop_reading(peer)
    peer._timer.cancel()  # type: ignore[union-attr]
    await until(lambda: guest.closed, "it was dropped")
    assert "silent" in guest.closed[0][1]


async def test_peers_that_have_nothing_to_say_stay_linked(quick: None, linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    host, guest, peer, theirs = linked
    await asyncio.sleep(2.0)
    assert host.closed == [] and guest.closed == []
    assert peer.rtt_s is not None and theirs.rtt_s is not None
    assert 0 <= peer.rtt_s < 2


async def test_a_peer_that_is_not_read_for_a_while_is_not_called_silent(
    quick: None, linked: tuple[Stub, Stub, Peer, Peer]
) -> None:
    host, _, _, theirs = linked
    host.links._frames = FrameBudget(time.monotonic, per_s=20, at_once=1)
    for _ in range(40):
        theirs.send(GetProviders())
    await until(lambda: len(host.said) == 40, "it was heard to its end, after two seconds")
    assert host.closed == []


@pytest.mark.parametrize("end", [Peer.abort, Peer.close])
async def test_a_link_that_ends_while_it_is_not_read_ends_without_a_fault(
    linked: tuple[Stub, Stub, Peer, Peer], end: Callable[[Peer, str], None]
) -> None:
    host, _, peer, theirs = linked
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    host.links._frames = FrameBudget(time.monotonic, per_s=10, at_once=1)
    for _ in range(4):
        theirs.send(GetProviders())
    await until(lambda: peer._paused)
    end(peer, "enough")
    await asyncio.sleep(0.5)
    assert len(host.said) < 4 and host.closed == [(peer.node_id, "enough")]
    assert faults == []


# The end of a link.


async def test_an_ended_link_waits_for_no_garbage_collector(host_id: Identity, guest_id: Identity) -> None:
    async with node(host_id) as host, node(guest_id, listen=None) as guest:
        ends = [weakref.ref(await guest.connect(host.uri))]
        await until(lambda: host.opened)
        ends.append(weakref.ref(host.opened.pop()))
        guest.opened.clear()
        gc.collect()
        gc.disable()
        try:
            guest.links.peers[0].close("enough")
            await until(lambda: not any(end() for end in ends), "both ends are gone")
        finally:
            gc.enable()


async def test_a_goodbye_reaches_the_other_side_with_its_reason(linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    host, guest, peer, _ = linked
    peer.close("revoked by its owner")
    await until(lambda: guest.closed and host.closed)
    assert guest.closed == [(host.identity.node_id, "it said goodbye: revoked by its owner")]
    assert host.closed == [(guest.identity.node_id, "revoked by its owner")]


async def test_a_hostile_goodbye_is_shown_without_its_escapes(linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    _, guest, peer, _ = linked
    peer.close("\x1b[2Jbye\u202e")
    await until(lambda: guest.closed)
    assert guest.closed[0][1] == "it said goodbye: bye"


async def test_sending_on_a_link_that_is_closing_does_nothing(linked: tuple[Stub, Stub, Peer, Peer]) -> None:
    _, guest, peer, _ = linked
    peer.close("closing")
    peer.send(GetProviders())
    peer.send(RemoteInferenceChunk("r", 0, "late"))
    await until(lambda: guest.closed)
    assert guest.said == []


async def test_sending_to_a_peer_that_said_goodbye_does_nothing(
    linked: tuple[Stub, Stub, Peer, Peer],
) -> None:
    """Between its GOODBYE and the end of its stream an answer may still be running here."""
    _, _, peer, theirs = linked
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    theirs._connection.send(Goodbye("enough"))
    theirs._flush()
    await until(lambda: peer._connection.state is State.CLOSED, "the goodbye came")
    peer.send(RemoteInferenceChunk("r", 0, "late"))
    peer.send_when_room(Box(peer, 1))
    await asyncio.sleep(0.1)
    assert faults == []


@pytest.mark.parametrize("how", ["it is closed", "a goodbye comes", "its peer breaks a rule"])
async def test_a_link_ends_although_an_outbox_has_more_to_say(
    linked: tuple[Stub, Stub, Peer, Peer], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dpc_jupyter.node.links.peer.READ_TURN_S", 60.0
    )  # all of it in this turn, on a busy machine too
    host, guest, peer, theirs = linked
    box = Box(peer, 1)
    peer.send_when_room(box)
    if how == "it is closed":
        peer.close("enough")
    elif how == "a goodbye comes":
        theirs._connection.send(Goodbye("enough"))
        peer.data_received(theirs._connection.data_to_send())
    else:
        peer.data_received(encode_frame(b"{}"))
    assert host.closed and not box.emitted
    await until(lambda: guest.closed)


async def test_a_message_that_is_too_large_is_an_error_and_the_link_stays(
    linked: tuple[Stub, Stub, Peer, Peer],
) -> None:
    host, guest, peer, theirs = linked
    with pytest.raises(LocalProtocolError):
        peer.send(RemoteInferenceChunk("r", 0, "x" * 2_000_000))
    theirs.send(GetProviders())
    await until(lambda: host.said)
    assert host.closed == [] and guest.closed == []
