"""The contract between a link and the node that uses it."""

from __future__ import annotations

from typing import Protocol


class Receiver(Protocol):
    """What a stream calls, always on its event loop. A callback must not raise."""

    def data_received(self, data: bytes, /) -> None:
        """Bytes came."""

    def stream_closed(self, reason: str, /) -> None:
        """The stream ended, for this reason; called once, and nothing is called after it."""

    def writable(self) -> None:
        """The stream's buffer has drained after `ByteStream.write` returned False."""


class ByteStream(Protocol):
    """An encrypted, ordered stream of bytes to one peer.

    Attributes
    ----------
    kind : str
        How the peer is reached, for people: ``TLS``, ``WebRTC`` or ``relay``.
    address : str
        Where it is, for people and for limits by address.
    server_cert_der : bytes
        The certificate that the serving side showed: what the handshake binds to.
    hops : tuple of str
        The nodes that carry it, nearest first; empty where nobody does.
    """

    kind: str
    address: str
    server_cert_der: bytes
    hops: tuple[str, ...]

    def attach(self, receiver: Receiver) -> None:
        """Send events to `receiver` from now on, first what has come already."""

    def write(self, data: bytes) -> bool:
        """Send bytes.

        Returns
        -------
        bool
            False when the buffer is full: what is written is kept, but wait for `Receiver.writable`.
        """

    def pause_reading(self) -> None:
        """Deliver nothing more until `resume_reading`."""

    def resume_reading(self) -> None:
        """Go on delivering."""

    def unsent_bytes(self) -> int:
        """How much `write` has taken that has not left this process."""

    def close(self) -> None:
        """Send what is buffered, then end. `Receiver.stream_closed` follows."""

    def abort(self) -> None:
        """End now. `Receiver.stream_closed` follows."""
