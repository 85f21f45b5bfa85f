"""A byte stream over a data channel: order, packing, back pressure, and its end."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from dpc_jupyter.identity import Identity
from dpc_jupyter.transports import data_channel
from dpc_jupyter.transports.data_channel import MESSAGE_BYTES, WebRtcStream
from transports.nodes import Ear, until
from transports.signalling import needs_an_address, streams

pytestmark = needs_an_address


@pytest.fixture
async def ends(guest_id: Identity, host_id: Identity) -> AsyncIterator[tuple[WebRtcStream, WebRtcStream]]:
    async with streams(guest_id, host_id) as found:
        yield found


def messages_to(stream: WebRtcStream) -> list[bytes]:
    """Every message that reaches this end from now on."""
    found: list[bytes] = []
    assert stream._channel is not None
    stream._channel.on("message", found.append)
    return found


def end_of(stream: WebRtcStream) -> Any:
    """Its aiortc connection."""
    return stream._connection


async def test_four_megabytes_arrive_whole_in_messages_of_48_kib(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    data = random.Random(1).randbytes(4_000_000)
    ear, messages = Ear(), messages_to(ends[1])
    ends[1].attach(ear)
    ends[0].write(data)
    await until(lambda: len(ear.heard) >= len(data), "everything came", 30)
    assert ear.heard == data
    assert max(map(len, messages)) == MESSAGE_BYTES < 64 * 1024


async def test_what_waits_is_packed_and_what_need_not_wait_goes_at_once(
    ends: tuple[WebRtcStream, WebRtcStream],
) -> None:
    ear, messages = Ear(), messages_to(ends[1])
    ends[1].attach(ear)
    for number in range(1000):
        ends[0].write(b"%4d" % number)
    assert ends[0].unsent_bytes() == 4000
    await until(lambda: len(ear.heard) == 4000)
    assert ear.heard == b"".join(b"%4d" % number for number in range(1000))
    assert [len(message) for message in messages] == [4, 3996], "the first at once, all others behind it in one"


async def test_bytes_one_by_one_arrive_in_order_both_ways(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    ears = Ear(), Ear()
    for stream, ear in zip(ends, ears, strict=True):
        stream.attach(ear)
    data = random.Random(2).randbytes(3000)
    for byte in data:
        for stream in ends:
            stream.write(bytes([byte]))
        await asyncio.sleep(0)
    await until(lambda: len(ears[0].heard) == len(ears[1].heard) == len(data))
    assert ears[0].heard == ears[1].heard == data


async def test_a_full_buffer_says_so_and_says_when_it_has_drained(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    sender, reader = Ear(), Ear()
    ends[0].attach(sender)
    ends[1].attach(reader)
    assert data_channel.WRITE_HIGH_BYTES == 256 * 1024
    assert ends[0].write(b"x" * 200_000)
    assert not ends[0].write(b"x" * 100_000)
    assert ends[0].unsent_bytes() > 256 * 1024 and sender.drained == 0
    await until(lambda: sender.drained)
    assert ends[0].unsent_bytes() <= 64 * 1024
    assert ends[0].write(b"")
    await until(lambda: len(reader.heard) == 300_000)
    assert sender.drained == 1


async def test_nothing_is_delivered_while_reading_is_paused(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    ear = Ear()
    ends[0].write(b"before anybody listens ")
    await asyncio.sleep(0.1)
    ends[1].attach(ear)
    assert ear.heard == b"before anybody listens "
    ends[1].pause_reading()
    ends[0].write(b"while nobody reads")
    await asyncio.sleep(0.1)
    assert ear.heard == b"before anybody listens "
    ends[1].resume_reading()
    assert ear.heard == b"before anybody listens while nobody reads"


async def test_who_sends_on_while_nobody_reads_is_cut_off(
    ends: tuple[WebRtcStream, WebRtcStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_channel.UNREAD_LIMIT_BYTES == 4 * 1024 * 1024
    monkeypatch.setattr(data_channel, "UNREAD_LIMIT_BYTES", 500_000)
    sender, reader = Ear(), Ear()
    ends[0].attach(sender)
    ends[1].attach(reader)
    ends[1].pause_reading()
    ends[0].write(b"x" * 499_000)
    await until(lambda: len(ends[1]._unread) == 499_000)
    assert reader.ends == []
    ends[0].write(b"x" * 2000)
    await until(lambda: reader.ends and sender.ends)
    assert reader.ends == ["the peer sent faster than it is read"]


async def test_a_message_that_is_too_large_or_is_text_ends_the_stream(guest_id: Identity, host_id: Identity) -> None:
    for message, says in ((b"x" * 65_537, "larger than allowed"), ("{}", "D-PC Messenger")):
        async with streams(guest_id, host_id) as (dialler, answerer):
            ear = Ear()
            answerer.attach(ear)
            channel: Any = dialler._channel
            channel.transport._remote_max_message_size = 0  # aiortc itself would not send it
            channel.send(message)
            await until(lambda: ear.ends)  # noqa: B023
            assert says in ear.ends[0]


async def test_a_second_channel_ends_the_stream(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    ear = Ear()
    ends[1].attach(ear)
    end_of(ends[0]).createDataChannel(data_channel.LABEL)
    await until(lambda: ear.ends)
    assert "another channel" in ear.ends[0]


@pytest.mark.parametrize("parameters", [{"label": "chat"}, {"ordered": False}, {"maxRetransmits": 3}])
async def test_a_channel_that_may_lose_or_mix_up_is_refused(
    parameters: dict[str, Any], guest_id: Identity, host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offer_channel(self: WebRtcStream) -> None:
        channel = self._connection.createDataChannel(**{"label": data_channel.LABEL} | parameters)
        monkeypatch.setattr(data_channel, "LABEL", channel.label)
        monkeypatch.setattr(data_channel, "_is_reliable", lambda _: True)
        self._use(channel)
        monkeypatch.undo()

    from dpc_jupyter.errors import DpcError
    from dpc_jupyter.transports import webrtc
    from transports.signalling import NOBODY, answering

    async with answering(host_id, guest_id.node_id) as (hub, accepted):
        monkeypatch.setattr(WebRtcStream, "offer_channel", offer_channel)
        with pytest.raises(DpcError):
            await webrtc.dial(hub.signal, guest_id, host_id.node_id, NOBODY, 10.0)
        await hub.settled()
        assert accepted == [] and "another channel" in str(hub.failures[0])


# The end.


async def test_close_sends_what_is_buffered_and_both_ends_hear_it_once(
    ends: tuple[WebRtcStream, WebRtcStream],
) -> None:
    ears = Ear(), Ear()
    for stream, ear in zip(ends, ears, strict=True):
        stream.attach(ear)
    data = random.Random(3).randbytes(1_000_000)
    ends[0].write(data)
    ends[0].close()
    ends[0].close()
    assert ends[0].write(b"too late") is False, "it is full, and takes nothing more"
    await until(lambda: ears[0].ends and ears[1].ends)
    assert ears[1].heard == data
    ends[0].abort()
    await asyncio.sleep(0.1)
    assert (ears[0].ends, ears[1].ends) == (["closed here"], ["the peer closed the connection"])


async def test_the_end_of_an_answer_that_came_while_nobody_read_is_delivered_before_the_end(
    ends: tuple[WebRtcStream, WebRtcStream],
) -> None:
    ear = Ear()
    ends[1].attach(ear)
    ends[1].pause_reading()
    ends[0].write(b"the last words")
    ends[0].close()
    await until(lambda: ear.ends)
    assert ear.heard == b"the last words"


async def test_abort_ends_both_at_once(ends: tuple[WebRtcStream, WebRtcStream]) -> None:
    ears = Ear(), Ear()
    for stream, ear in zip(ends, ears, strict=True):
        stream.attach(ear)
    ends[0].write(b"x" * 10_000_000)
    ends[0].abort()
    assert ends[0].unsent_bytes() < 100_000
    await until(lambda: ears[0].ends and ears[1].ends, limit_s=3)
    assert len(ears[1].heard) < 10_000_000


async def test_who_comes_too_late_hears_what_came_and_that_it_is_over(
    ends: tuple[WebRtcStream, WebRtcStream],
) -> None:
    ends[0].write(b"is anybody there?")
    ends[0].close()
    ear = Ear()
    await asyncio.sleep(0.3)
    ends[1].attach(ear)
    assert (ear.heard, ear.ends) == (b"is anybody there?", ["the peer closed the connection"])


async def test_a_close_that_the_peer_does_not_answer_ends_in_two_seconds(
    ends: tuple[WebRtcStream, WebRtcStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_channel._SHUTDOWN_S == 2.0
    monkeypatch.setattr(data_channel, "_SHUTDOWN_S", 0.3)
    ear = Ear()
    ends[0].attach(ear)
    deaf(ends[1])
    ends[0].write(b"x" * 1_000_000)
    ends[0].close()
    await until(lambda: ear.ends, limit_s=3)


def deaf(stream: WebRtcStream) -> None:
    """From now on it takes no packet and answers none: as when its network cable is pulled."""
    for protocol in end_of(stream).sctp.transport.transport._connection._protocols:
        protocol.datagram_received = lambda *_: None


async def test_a_peer_whose_network_is_gone_is_noticed_by_ice(
    guest_id: Identity, host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aioice.ice

    assert (aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES) == (5, 6), "30 s in all, as SILENCE_S"
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)
    monkeypatch.setattr(aioice.ice, "CONSENT_FAILURES", 1)
    async with streams(guest_id, host_id) as (dialler, answerer):
        ear = Ear()
        dialler.attach(ear)
        deaf(answerer)
        await until(lambda: ear.ends)
        assert ear.ends == ["no way through the network was found, or the one there was is gone"]


async def test_thirty_links_leave_no_socket_and_no_task(guest_id: Identity, host_id: Identity) -> None:
    async def some(count: int) -> None:
        for number in range(count):
            async with streams(guest_id, host_id) as (dialler, answerer):
                dialler.attach(Ear())
                answerer.attach(Ear())
                dialler.write(b"hello")
                (dialler if number % 2 else answerer).close()
        await asyncio.sleep(0.2)

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        await some(2)
        process, tasks = psutil.Process(), len(asyncio.all_tasks())
        before = process.num_fds()
        await some(10)
        assert process.num_fds() <= before
        assert len(asyncio.all_tasks()) == tasks
        assert not data_channel._closing


async def test_a_dialler_that_changes_its_mind_leaves_nothing(guest_id: Identity, host_id: Identity) -> None:
    from dpc_jupyter.transports import webrtc
    from transports.signalling import NOBODY, answering

    process = psutil.Process()
    async with streams(guest_id, host_id):
        pass
    await asyncio.sleep(0.1)
    before, tasks = process.num_fds(), len(asyncio.all_tasks())
    for wait_s in (0.0, 0.001, 0.003, 0.006, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04):
        async with answering(host_id, guest_id.node_id) as (hub, _):
            task = asyncio.create_task(webrtc.dial(hub.signal, guest_id, host_id.node_id, NOBODY, 10.0))
            await asyncio.sleep(wait_s)
            task.cancel()
            (found,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(found, WebRtcStream):
                await found.give_up()
    await asyncio.sleep(0.2)
    assert process.num_fds() <= before and len(asyncio.all_tasks()) == tasks
