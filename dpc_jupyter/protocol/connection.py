"""One conversation with one peer, without any input or output of its own.

Bytes go in by `Connection.receive_data`, which yields events; what must go out collects until `data_to_send`.
Which message is legal when is the table `LEGAL`, and nothing else decides it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from dpc_jupyter.errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from dpc_jupyter.protocol import handshake, messages
from dpc_jupyter.protocol.framing import LIMIT_BYTES, FrameDecoder, decode_object, encode_frame
from dpc_jupyter.protocol.messages import Ext, Hello, HelloAck, HelloChallenge, Message


class State(enum.IntEnum):
    """Where a conversation stands. The first two are the client's, the next two the server's.

    Of integers, because every message looks its state up in a table and only those hash fast.
    """

    AWAIT_CHALLENGE = enum.auto()
    AWAIT_ACK = enum.auto()
    AWAIT_HELLO = enum.auto()
    AWAIT_ADMISSION = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


_HANDSHAKE = frozenset({HelloChallenge, Hello, HelloAck})
LEGAL: dict[State, frozenset[type[Message]]] = {
    State.AWAIT_CHALLENGE: frozenset({HelloChallenge}),
    State.AWAIT_ACK: frozenset({HelloAck}),
    State.AWAIT_HELLO: frozenset({Hello}),
    State.AWAIT_ADMISSION: frozenset(),
    State.OPEN: frozenset(messages.COMMANDS.values()) - _HANDSHAKE,
    State.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The peer has proved to be `node_id`. A server must now `Connection.admit` or `Connection.refuse` it."""

    node_id: str
    name: str
    ext: Ext | None


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A REMOTE_INFERENCE_REQUEST that cannot be accepted; the conversation goes on."""

    request_id: str
    reason: str


Event = Message | Authenticated | BadRequest

_encoder = msgspec.json.Encoder()


_BEFORE_PAYLOAD = {struct: f'{{"command":"{word}","payload":'.encode() for word, struct in messages.COMMANDS.items()}


def _encode(message: Message) -> bytes:
    if isinstance(message, HelloAck):
        return _encoder.encode({"command": messages.COMMAND_OF[HelloAck], **msgspec.to_builtins(message)})
    return b"%b%b}" % (_BEFORE_PAYLOAD[type(message)], _encoder.encode(message))


# What every token and every request is made of, and what a relay carries.
_HOT = {
    _BEFORE_PAYLOAD[struct]: msgspec.json.Decoder(struct)
    for struct in (
        messages.RemoteInferenceRequest,
        messages.RemoteInferenceStatus,
        messages.RemoteInferenceChunk,
        messages.RemoteInferenceResponse,
        messages.RelayData,
    )
}


def _decode_canonical(payload: bytes) -> Message | None:
    """The message, if these are the very bytes that we would send for it, else None.

    Bytes that are their own re-encoding hold no key twice, no NaN, no unknown field and no depth, so the strict parser
    has nothing to look for. Nodes of this package write so, and it costs a tenth.
    """
    before = payload[: payload.find(b":{", len('{"command":')) + 1]
    decoder = _HOT.get(before)
    if decoder is None:
        return None
    try:
        message: Message = decoder.decode(memoryview(payload)[len(before) : -1])
        return message if _encode(message) == payload else None
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


class Connection:
    """One end of a DPTP conversation.

    Parameters
    ----------
    signer : handshake.Signer
        Our identity.
    name : str
        What we call ourselves; shown to the peer, proves nothing.
    ext : Ext
        The extensions that we offer.
    load_key : callable
        Reads a certificate's key; raises `HandshakeError`.
    legacy_ok : callable
        Whether this node id may come without channel binding.
    salt : bytes, optional
        Server: `handshake.SALT_BYTES` fresh random bytes. Given, this end is the server.
    server_id : str, optional
        Client: the node that we meant to reach, whose key hash the caller has already compared.
    server_cert_der : bytes, optional
        Client: the TLS certificate that we saw.

    Attributes
    ----------
    state : State
    extended : bool
        Both sides offered extensions.
    unsent_bytes : int
        Of messages that wait for `data_to_send`.
    """

    def __init__(
        self,
        signer: handshake.Signer,
        *,
        name: str,
        ext: Ext,
        load_key: handshake.LoadKey,
        legacy_ok: Callable[[str], bool],
        salt: bytes | None = None,
        server_id: str = "",
        server_cert_der: bytes = b"",
    ) -> None:
        self._signer = signer
        self._name = name
        self._ext = ext
        self._load_key = load_key
        self._legacy_ok = legacy_ok
        self._server_id = server_id
        self._server_cert_der = server_cert_der
        self._decoder = FrameDecoder()
        self._out: list[bytes] = []
        self.unsent_bytes = 0
        self._nonce = b""
        self.extended = False
        self.state = State.AWAIT_CHALLENGE
        if salt is not None:
            self._server_id, self._server_cert_der = signer.node_id, signer.cert_der
            challenge, self._nonce = handshake.make_challenge(signer.cert_der, salt)
            self._out.append(encode_frame(_encode(challenge)))
            self.state = State.AWAIT_HELLO

    @property
    def binding(self) -> bytes:
        """64 bytes that this link alone has: the challenge's nonce, and the hash of the certificate that this end saw.

        With somebody in the middle the two ends have different ones.
        """
        return self._nonce + handshake.cert_hash(self._server_cert_der)

    def data_to_send(self) -> bytes:
        """Take what has collected since the last call."""
        data = b"".join(self._out)
        self._out.clear()
        self.unsent_bytes = 0
        return data

    def send(self, message: Message) -> None:
        """Queue a message.

        Raises
        ------
        LocalProtocolError
            It is not legal now, is an extension that the peer did not offer, or is over the frame limit.
        """
        if self.state is not State.OPEN or type(message) not in LEGAL[State.OPEN]:
            raise LocalProtocolError(f"{type(message).__name__} cannot be sent in {self.state.name}")
        if type(message) in messages.EXTENSIONS and not self.extended:
            raise LocalProtocolError(f"{type(message).__name__} needs an extension that the peer did not offer")
        try:
            frame = encode_frame(_encode(message))
        except UnicodeEncodeError as error:
            raise LocalProtocolError("This text holds half of a surrogate pair, which UTF-8 cannot carry.") from error
        self._out.append(frame)
        self.unsent_bytes += len(frame)
        if isinstance(message, messages.Goodbye):
            self.state = State.CLOSED

    def admit(self) -> None:
        """Server: let the authenticated peer in (HELLO_ACK ``OK``)."""
        if self.state is not State.AWAIT_ADMISSION:
            raise LocalProtocolError(f"nobody waits for admission in {self.state.name}")
        ext = self._ext if self.extended else None
        ack = HelloAck(status="OK", name=self._name, node_id=self._signer.node_id, ext=ext)
        self._out.append(encode_frame(_encode(ack)))
        self._open()

    def refuse(self, sentence: str) -> None:
        """Server: turn the peer away with the reason (HELLO_ACK ``ERROR``), before or after it is authenticated."""
        if self.state in (State.AWAIT_HELLO, State.AWAIT_ADMISSION):
            self._out.append(encode_frame(_encode(HelloAck(status="ERROR", error=sentence[:1024]))))
            self.state = State.CLOSED

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Yield the events in these bytes. Iterate to the end: a later event may depend on how you took an earlier.

        Raises
        ------
        RemoteProtocolError
            The peer broke a rule. The state is CLOSED, and the reply it deserves waits in `data_to_send`.
        """
        if self._over():
            return  # a stream may deliver for a while after the end; nothing of it is kept
        try:
            for payload in self._decoder.feed(data):
                yield from self._receive(payload)
                if self._over():
                    return
        except RemoteProtocolError as error:
            self.refuse(str(error))
            if self.state is State.OPEN and self.extended:
                self._out.append(encode_frame(_encode(messages.Goodbye(str(error)[:256]))))
            self.state = State.CLOSED
            raise

    def _over(self) -> bool:
        return self.state is State.CLOSED

    def _receive(self, payload: bytes) -> Iterator[Event]:
        if self.extended and self.state is State.OPEN and (message := _decode_canonical(payload)) is not None:
            yield message
            return
        frame = decode_object(payload)
        word = frame.get("command")
        if not isinstance(word, str):
            raise RemoteProtocolError("The peer sent a frame without a command.")
        struct = messages.COMMANDS.get(word)
        if struct is None or (struct in messages.EXTENSIONS and not self.extended):
            if self.state is not State.OPEN:
                raise RemoteProtocolError("The peer sent another command before the handshake was over.")
            yield messages.Unknown(word[:64])
            return
        if struct not in LEGAL[self.state]:
            raise RemoteProtocolError(f"{word} is not allowed in {self.state.name}.")
        body = frame if struct is HelloAck else frame.get("payload", {})
        try:
            message = msgspec.convert(body, struct)
        except msgspec.ValidationError as error:
            if struct is messages.RemoteInferenceRequest:
                yield BadRequest(_request_id_of(body), _without_values(error))
                return
            raise RemoteProtocolError(f"{word} is malformed: {_without_values(error)}") from error
        if isinstance(message, HelloChallenge):
            self._answer(message)
        elif isinstance(message, Hello):
            yield self._authenticate(message)
        elif isinstance(message, HelloAck):
            yield self._acknowledged(message)
        else:
            if isinstance(message, messages.Goodbye):
                self.state = State.CLOSED
            yield message

    def _answer(self, challenge: HelloChallenge) -> None:
        hello = handshake.answer_challenge(
            challenge,
            self._signer,
            name=self._name,
            ext=self._ext,
            server_id=self._server_id,
            server_cert_der=self._server_cert_der,
            legacy_ok=self._legacy_ok(self._server_id),
        )
        self._nonce = handshake.nonce_of(challenge)
        self._out.append(encode_frame(_encode(hello)))
        self.state = State.AWAIT_ACK

    def _authenticate(self, hello: Hello) -> Authenticated:
        handshake.check_hello(
            hello,
            self._nonce,
            load_key=self._load_key,
            server_id=self._server_id,
            server_cert_der=self._server_cert_der,
            legacy_ok=self._legacy_ok,
        )
        self.extended = hello.ext is not None
        self.state = State.AWAIT_ADMISSION
        return Authenticated(hello.node_id, hello.name, hello.ext)

    def _acknowledged(self, ack: HelloAck) -> Authenticated:
        if ack.status != "OK":
            raise HandshakeError(f"{self._server_id} refused the connection: {ack.error or 'it gave no reason'}")
        if ack.node_id not in (None, self._server_id):
            raise HandshakeError(f"{self._server_id} calls itself {ack.node_id} in its HELLO_ACK.")
        self.extended = ack.ext is not None
        self._open()
        return Authenticated(self._server_id, ack.name, ack.ext)

    def _open(self) -> None:
        self._decoder.limit_bytes = LIMIT_BYTES
        self.state = State.OPEN


def _request_id_of(body: object) -> str:
    try:
        return msgspec.convert(body, _OnlyRequestId).request_id
    except msgspec.ValidationError as error:
        raise RemoteProtocolError("A REMOTE_INFERENCE_REQUEST came without a usable request_id.") from error


class _OnlyRequestId(msgspec.Struct):
    request_id: messages.RequestId


def _without_values(error: msgspec.ValidationError) -> str:
    """msgspec names fields and types, and echoes a value only for enumerations: cut that, it is the peer's text."""
    text = str(error)
    return "Invalid value" + text[text.rfind(" - at") :] if text.startswith("Invalid enum value") else text
