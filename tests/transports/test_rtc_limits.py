"""What aiortc and aioice would take from anybody."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aioice import stun
from aiortc.rtcsctptransport import (
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    WEBRTC_BINARY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    DataChunk,
    serialize_packet,
)

from dpc_jupyter.identity import Identity
from dpc_jupyter.transports import rtc_limits
from dpc_jupyter.transports.data_channel import WebRtcStream
from transports.nodes import Ear, until
from transports.signalling import needs_an_address, streams

pytestmark = needs_an_address


@pytest.fixture
async def ends(guest_id: Identity, host_id: Identity) -> AsyncIterator[tuple[WebRtcStream, WebRtcStream]]:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with streams(guest_id, host_id) as found:
        yield found
    await asyncio.sleep(0.05)
    assert faults == []


def sctp_of(stream: WebRtcStream) -> Any:
    return stream._connection.sctp


def ice_of(stream: WebRtcStream) -> Any:
    return sctp_of(stream).transport.transport._connection


async def say(stream: WebRtcStream, *chunks: Any) -> None:
    """Send SCTP chunks as this end might if it were hostile."""
    sctp = sctp_of(stream)
    for chunk in chunks:
        packet = serialize_packet(sctp._local_port, sctp._remote_port, sctp._remote_verification_tag, chunk)
        await sctp.transport._send_data(packet)


def part(sctp: Any, number: int, stream_id: int = 0) -> DataChunk:
    """The beginning of a message that never ends."""
    chunk = DataChunk(flags=SCTP_DATA_FIRST_FRAG)
    chunk.tsn = (sctp._local_tsn + number) % 2**32
    chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = stream_id, 0, WEBRTC_BINARY, b"x"
    return chunk


def test_the_private_parts_that_are_used_are_where_they_were(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    for stream in ends:
        ice, sctp = ice_of(stream), sctp_of(stream)
        assert isinstance(ice._queue, rtc_limits._Datagrams)
        assert ice.request_received.__module__ == sctp._handle_data.__module__ == rtc_limits.__name__
        assert ice._protocols and all(
            each.datagram_received.__module__ == rtc_limits.__name__ for each in ice._protocols
        )
        assert sctp._send_sack.__module__ == rtc_limits.__name__ and sctp._sack_needed is False
        assert isinstance(sctp._sack_misordered, set) and isinstance(sctp._inbound_streams, dict)
        assert all(isinstance(each.reassembly, list) for each in sctp._inbound_streams.values())


async def test_what_anybody_sends_to_the_port_neither_ends_the_stream_nor_is_printed(
    ends: tuple[WebRtcStream, WebRtcStream], caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()
    ends[1].attach(ear)
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    request.attributes["USERNAME"] = "x:y"
    good = bytes(request)
    # An attribute that promises four bytes and has one: struct.error in aioice.
    short = good[:2] + b"\0\5" + good[4:20] + b"\0\x24\0\1\0"
    candidate = ice_of(ends[1])._nominated[1].protocol.local_candidate
    with socket.socket(socket.AF_INET6 if ":" in candidate.host else socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"\0", short, good, b"\x16" + bytes(40), b"\x80" * 30, b"\xff" * 1500):
            stranger.sendto(data, (candidate.host, candidate.port))
    await asyncio.sleep(0.1)
    ends[0].write(b"still here")
    await until(lambda: ear.heard == b"still here")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_datagrams_that_nobody_reads_are_not_kept_without_end() -> None:
    queue = rtc_limits._Datagrams()
    for _ in range(10_000):
        queue.put_nowait((b"x", 1))
    queue.put_nowait((b"", 1))
    assert queue.qsize() == 4096
    queue.put_nowait(None)
    assert queue.qsize() == 4097, "the end is always told"


async def test_a_peer_that_names_ever_new_addresses_has_64_of_them_tried(
    ends: tuple[WebRtcStream, WebRtcStream],
) -> None:
    ice = ice_of(ends[1])
    protocol = ice._nominated[1].protocol
    for number in range(500):
        message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        message.attributes["USERNAME"] = f"{ice.local_username}:{ice.remote_username}"
        message.attributes["PRIORITY"] = 1
        message.add_message_integrity(ice.local_password.encode())
        ice.request_received(stun.parse_message(bytes(message)), ("127.0.0.1", 2000 + number), protocol)
    assert len(ice._remote_candidates) == 64
    del message.attributes["PRIORITY"]
    ice.request_received(message, ("127.0.0.1", 9), protocol)


@pytest.mark.parametrize(
    ("stream_id", "protocol", "data"),
    [
        (0, WEBRTC_DCEP, b"\x03" + bytes(11)),  # opens a channel that is open: an assert
        (9, WEBRTC_DCEP, b"\x02"),  # acknowledges one that nobody opened: another
        (0, WEBRTC_STRING, b"\xff"),  # text that is none
    ],
)
async def test_packets_that_break_aiortc_end_the_stream_with_a_reason_and_no_traceback(
    stream_id: int,
    protocol: int,
    data: bytes,
    ends: tuple[WebRtcStream, WebRtcStream],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear, sctp = Ear(), sctp_of(ends[0])
    ends[1].attach(ear)
    assert ends[1]._channel is not None and ends[1]._channel.id is not None
    chunk = DataChunk(flags=SCTP_DATA_FIRST_FRAG | SCTP_DATA_LAST_FRAG)
    chunk.tsn, chunk.stream_id, chunk.protocol, chunk.user_data = sctp._local_tsn, stream_id, protocol, data
    if not stream_id:
        chunk.stream_id = ends[1]._channel.id
    chunk.stream_seq = sctp._outbound_stream_seq.get(chunk.stream_id, 0)
    await say(ends[0], chunk)
    await until(lambda: ear.ends)
    assert ear.ends == ["the peer broke the rules of SCTP"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_beginnings_of_messages_without_ends_are_not_kept_without_end(
    ends: tuple[WebRtcStream, WebRtcStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rtc_limits._PACKETS_LIMIT == 4096
    monkeypatch.setattr(rtc_limits, "_PACKETS_LIMIT", 200)
    ear = Ear()
    ends[1].attach(ear)
    for number in range(300):
        await say(ends[0], part(sctp_of(ends[0]), number))
    await until(lambda: ear.ends)
    assert ear.ends == ["the peer sent parts of messages without their ends"]


async def test_nor_are_streams_that_nobody_opened(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    ear = Ear()
    ends[1].attach(ear)
    for number in range(20):
        await say(ends[0], part(sctp_of(ends[0]), number, stream_id=100 + number))
    await until(lambda: ear.ends)
    assert ear.ends == ["the peer sent parts of messages without their ends"]
