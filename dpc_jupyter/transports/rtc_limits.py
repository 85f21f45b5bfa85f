"""What aiortc and aioice leave open to a peer, or to anybody who finds the port, and what is put before it.

And one thing for speed: bytes are handed on before they are acknowledged. There are no hooks for any of it, so here,
and nowhere else, private attributes are used. Read off aiortc 1.16 and aioice 0.13;
`tests/transports/test_rtc_limits.py` breaks when they move.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dpc_jupyter.transports.sdp import CANDIDATES_LIMIT

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

# aiortc's window is 1 MiB, which is 900 packets; a packet of one byte costs a list entry of 500.
_PACKETS_LIMIT = 4096
# One is ours. A stream is made for every number that a peer writes.
_STREAMS_LIMIT = 4
# Each end waits so long in turn for STUN and TURN servers that are gone; aioice's 5 s would use up what a user waits.
_SERVER_ANSWERS_S = 2.0


class _Datagrams(asyncio.Queue[Any]):
    """aioice keeps every datagram until somebody reads, from anybody; an empty one ends aiortc's reading by a fault."""

    def put_nowait(self, item: Any) -> None:
        if item is None or (item[0] and self.qsize() < _PACKETS_LIMIT):
            super().put_nowait(item)


def bound(connection: RTCPeerConnection, arrived: Callable[[], None], broken: Callable[[str], None]) -> None:
    """Put the limits in place, once there is a data channel's transport and before anything is sent or received.

    Parameters
    ----------
    arrived : callable
        Called behind each datagram that has been worked off.
    broken : callable
        Called with a reason when the peer does what no honest one does; the connection must end.
    """
    sctp: Any = connection.sctp
    ice = sctp.transport.transport._connection
    ice._queue = _Datagrams()
    ice.get_component_candidates = partial(ice.get_component_candidates, timeout=_SERVER_ANSWERS_S)
    received, keep_asking = ice.request_received, ice.query_consent
    handle, acknowledge = sctp._handle_data, sctp._send_sack

    def request_received(message: Any, address: tuple[str, int], protocol: Any) -> None:
        # Each new address of a check is one more that ICE sends to. Without a priority it would end by a KeyError.
        known = any((each.host, each.port) == address for each in ice._remote_candidates)
        if "PRIORITY" in message.attributes and (known or len(ice._remote_candidates) < 2 * CANDIDATES_LIMIT):
            received(message, address, protocol)

    async def handle_data(data: bytes) -> None:
        try:
            await handle(data)
        except ConnectionError:
            raise
        except Exception:  # its asserts, and whatever a packet's numbers lead it to
            broken("the peer broke the rules of SCTP")
            return
        streams = sctp._inbound_streams
        packets = len(sctp._sack_misordered) + sum(len(stream.reassembly) for stream in streams.values())
        if len(streams) > _STREAMS_LIMIT or packets > _PACKETS_LIMIT:
            broken("the peer sent parts of messages without their ends")
            return
        arrived()
        if sctp._sack_needed:
            await asyncio.sleep(
                0
            )  # whoever waits for these bytes goes first: to acknowledge costs a fifth of their way
            await acknowledge()

    async def no_sack() -> None:
        """The one in `handle_data` comes later."""

    async def query_consent() -> None:
        # A connection that is closed while its checks come to an end would go on asking nobody, for ever.
        if not ice._closing:
            await keep_asking()

    ice.request_received, ice.query_consent = request_received, query_consent
    sctp._handle_data, sctp._send_sack = handle_data, no_sack


def harden_sockets(connection: RTCPeerConnection) -> None:
    """Once the sockets are open: a datagram that aioice cannot parse is dropped, not printed with a traceback."""
    sctp: Any = connection.sctp
    for protocol in sctp.transport.transport._connection._protocols:
        protocol.datagram_received = _careful(protocol.datagram_received)


def _careful(take: Callable[[bytes, Any], None]) -> Callable[[bytes, Any], None]:
    def datagram_received(data: bytes, address: Any) -> None:
        with contextlib.suppress(Exception):  # a stranger's bytes; struct.error of a short STUN attribute, say
            take(data, address)

    return datagram_received


def way_is_gone(connection: RTCPeerConnection) -> bool:
    """Whether ICE has given up a connection that nobody closed: the peer answered no check for 30 s (RFC 7675)."""
    sctp: Any = connection.sctp
    return bool(sctp.transport.transport._connection._closing)


def remote_address(connection: RTCPeerConnection) -> str:
    """Where the peer, or its relay, is."""
    sctp: Any = connection.sctp
    pair = sctp.transport.transport._connection._nominated.get(1)
    return "" if pair is None else str(pair.remote_addr[0])
