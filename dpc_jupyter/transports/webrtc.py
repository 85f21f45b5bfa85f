"""WebRTC: two nodes that no port is open for find a way to each other, and prove who they are.

Somebody in between, a hub, carries one offer and one answer. It is not believed: it may swap them, mix them up or name
another sender, and what it gains is a link that is refused. Each end signs the fingerprints of both DTLS certificates
with its node key, over the very channel that these certificates secure (protocol.md section 2).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dpc_jupyter.errors import ConnectError, HandshakeError
from dpc_jupyter.identity import Identity, peer_key_from_der
from dpc_jupyter.protocol.handshake import (
    ANSWERER,
    DIALLER,
    NONCE_BYTES,
    channel_bytes,
    introduction,
    read_introduction,
)
from dpc_jupyter.sanitize import label
from dpc_jupyter.transports import sdp
from dpc_jupyter.transports.data_channel import WebRtcStream
from dpc_jupyter.transports.gate import HANDSHAKE_S, Gate, HalfOpen
from dpc_jupyter.transports.ice import IceConfig, new_connection

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

# Each costs some 200 KiB, and up to 50 STUN checks a second to addresses that its sender names. Fewer than over TLS,
# where a place is free after milliseconds: finding a way through two NATs takes seconds.
HALF_OPEN_LIMIT = 16
# The sender is the hub's word alone. A user's second notebook may dial while the first one does.
HALF_OPEN_EACH = 4
# From an offer to the channel. STUN and TURN servers have 2 s of it to answer, and NATs open within the first checks.
FIND_WAY_S = 15.0

Payload = dict[str, Any]
Signal = Callable[[Payload], Awaitable[object]]
"""Carry an offer to the node that is dialled, and return what came back as its answer."""
Reply = Callable[[Payload], Awaitable[object]]
"""Carry an answer back to where the offer came from."""


async def dial(signal: Signal, identity: Identity, node_id: str, ice: IceConfig, timeout_s: float) -> WebRtcStream:
    """Reach a node by an offer that `signal` carries.

    Returns
    -------
    WebRtcStream
        Its other end has proved to be `node_id`; what follows is the ordinary handshake.

    Raises
    ------
    ConnectError
        No answer, or no way through the network.
    HandshakeError
        Somebody else answers. Nothing has been signed then.
    """
    try:
        async with asyncio.timeout(timeout_s):
            stream = WebRtcStream(connection := await new_connection(ice))
            try:
                stream.offer_channel()
                stream.bound()
                own = await _describe(stream, connection, ice)
                answer = _description_in(await signal(_payload(connection, "offer")), "answer")
                await _accept(connection, answer, "answer")
                await stream.opened()
                await _prove(stream, identity, DIALLER, (own.fingerprint, answer.fingerprint), node_id)
            except BaseException:
                await stream.give_up()
                raise
    except TimeoutError as error:
        raise ConnectError(
            f"{node_id} was not reached over WebRTC within {timeout_s:g} s. Networks that let no UDP through need a "
            "TURN server (docs/how-to/webrtc.md)."
        ) from error
    return stream


class Answerer:
    """Answers offers and hands the streams on with their place at the gate, as `tls.Listener` does.

    Attributes
    ----------
    accepted : callable
        Gets each stream whose other end has proved its id. It calls ``done`` when that has finished its HELLO.
    known : callable
        Whether the owner lets a node in. Keys are free: who holds a hundred must not take the places of those.
    """

    def __init__(
        self,
        identity: Identity,
        ice: IceConfig,
        accepted: Callable[[WebRtcStream, HalfOpen], None],
        known: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._identity = identity
        self._ice = ice
        self._accepted = accepted
        self._known = known
        self._gates = {is_known: Gate(HALF_OPEN_LIMIT, HALF_OPEN_EACH) for is_known in (True, False)}
        self._attempts: set[asyncio.Task[WebRtcStream]] = set()

    @property
    def half_open(self) -> int:
        """Peers that have not finished their HELLO."""
        return sum(map(len, self._gates.values()))

    async def take_offer(self, sender: str, payload: object, reply: Reply) -> None:
        """Answer an offer, until a stream is handed on.

        Parameters
        ----------
        sender : str
            Who sent it, in the hub's words: what the limits count, and what the proof is compared with.

        Raises
        ------
        ConnectError
            No way through the network, or others needed the place.
        HandshakeError
            It is no offer of a data channel, or its sender is somebody else.
        """
        attempt = asyncio.get_running_loop().create_task(self._answer(sender, payload, reply))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempted)
        gate = self._gates[self._known(sender)]
        place = gate.enter(partial(_cancel, attempt), sender, FIND_WAY_S)
        try:
            await asyncio.wait({attempt})
        finally:
            place.done()
            _cancel(attempt)  # if it still runs, whoever waited for it was cancelled
        if attempt.cancelled():
            raise ConnectError(f"An offer of {sender} led to no link in time, or others needed its place.")
        stream = attempt.result()
        self._accepted(stream, gate.enter(stream.abort, stream.peer_id, HANDSHAKE_S))

    async def close(self) -> None:
        """Give up what is under way."""
        attempts = list(self._attempts)
        for attempt in attempts:
            _cancel(attempt)
        await asyncio.gather(*attempts, return_exceptions=True)

    def _attempted(self, attempt: asyncio.Task[WebRtcStream]) -> None:
        self._attempts.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # looked at, also where nobody waits for it any more

    async def _answer(self, sender: str, payload: object, reply: Reply) -> WebRtcStream:
        offer = _description_in(payload, "offer")
        stream = WebRtcStream(connection := await new_connection(self._ice))
        try:
            await _accept(connection, offer, "offer")
            stream.bound()
            own = await _describe(stream, connection, self._ice)
            await reply(_payload(connection, "answer"))
            await stream.opened()
            await _prove(stream, self._identity, ANSWERER, (offer.fingerprint, own.fingerprint), sender)
        except BaseException:
            await stream.give_up()
            raise
        return stream


def _cancel(attempt: asyncio.Task[WebRtcStream]) -> None:
    """Once: a second time would cut off the closing of its sockets."""
    if not attempt.cancelling():
        attempt.cancel()


async def _prove(
    stream: WebRtcStream, identity: Identity, role: int, fingerprints: tuple[bytes, bytes], meant: str
) -> None:
    """Show both ends who the other one is.

    `fingerprints` are those of the two descriptions, each the only one in it: aiortc has shown one as its own
    certificate's and compared the other with the certificate that it saw, or the channel would not be open.
    """
    dialling, nonce = role == DIALLER, secrets.token_bytes(NONCE_BYTES)
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            stream.send_proof(introduction(nonce, identity.cert_der))
            their_nonce, their_cert = read_introduction(await stream.next_proof())
            key = peer_key_from_der(their_cert)
            if key.node_id != meant:
                raise HandshakeError(
                    f"At the other end of a WebRTC channel is {key.node_id}, not {meant}: the hub mixed them up, or "
                    "lies. Nothing was signed."
                )
            ids = (identity.node_id, meant) if dialling else (meant, identity.node_id)
            nonces = (nonce, their_nonce) if dialling else (their_nonce, nonce)
            stream.send_proof(identity.sign(channel_bytes(role, ids, nonces, fingerprints)))
            other = ANSWERER if dialling else DIALLER
            if not key.verify(await stream.next_proof(), channel_bytes(other, ids, nonces, fingerprints)):
                raise HandshakeError(f"{meant} signed for another WebRTC channel: someone may be in the middle.")
    except TimeoutError as error:
        raise HandshakeError(f"{meant} did not prove over WebRTC who it is within {HANDSHAKE_S:g} s.") from error
    stream.peer_id = key.node_id
    # The ordinary handshake binds to the certificate of who answers, and is as sound here as over TLS. There, a stream
    # that shows a certificate ends at the holder of its key, because TLS made it sign; here, because it has just signed
    # for this channel, whose DTLS keys are made anew for each connection and leave neither process. So nobody can hold
    # one end of this channel in the name of that certificate, which is all that a HELLO takes for granted.
    stream.server_cert_der = their_cert if dialling else identity.cert_der


async def _describe(stream: WebRtcStream, connection: RTCPeerConnection, ice: IceConfig) -> sdp.Description:
    """Open the sockets; returns this end's description."""
    await stream.gather()
    own = sdp.read(connection.localDescription.sdp)
    if not own.candidates:
        raise ConnectError(
            f"The TURN server {ice.turn[0].url} gave no address: is it up, are its name and password right?"
            if ice.relay_only
            else "This machine has no network address at which a peer could reach it over WebRTC."
        )
    return own


async def _accept(connection: RTCPeerConnection, peers: sdp.Description, kind: str) -> None:
    from aiortc import RTCSessionDescription

    try:
        await connection.setRemoteDescription(RTCSessionDescription(peers.text(), kind))
    except ValueError as error:  # as where an answer's parts are not those of the offer
        raise HandshakeError(f"The WebRTC {kind} cannot be used: {label(str(error), 200)}.") from error


def _payload(connection: RTCPeerConnection, kind: str) -> Payload:
    return {"type": kind, kind: {"type": kind, "sdp": connection.localDescription.sdp}}


def _description_in(payload: object, kind: str) -> sdp.Description:
    inner = payload.get(kind) if isinstance(payload, Mapping) else None
    text = inner.get("sdp") if isinstance(inner, Mapping) else None
    if not isinstance(text, str):
        raise HandshakeError(f"What came through the hub is no WebRTC {kind}.")
    found = sdp.read(text)
    if not found.candidates:
        raise HandshakeError(f"The WebRTC {kind} names no address that could be tried.")
    if (found.setup == "actpass") != (kind == "offer"):
        raise HandshakeError(f"The WebRTC {kind} takes a part in DTLS that is not its own.")
    return found
