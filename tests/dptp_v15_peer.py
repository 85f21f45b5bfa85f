"""A second DPTP v1.5 peer, written from the protocol notes alone and sharing no code with the package.

It is the stand-in for a D-PC Messenger node: `Host` serves, `Asker` asks, neither knows `cb` or `ext`. Keyword
arguments turn either of them hostile. Nothing here limits what it reads, exactly as v1.5 does not.
"""

import asyncio
import base64
import contextlib
import hashlib
import inspect
import json
import ssl
import tempfile
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

T = TypeVar("T")
Message = dict[str, Any]
Signer = Callable[[bytes], bytes | Awaitable[bytes]]
NonceSource = Callable[[], bytes | Awaitable[bytes]]
Answer = Callable[[Message], str | Message | Awaitable[str | Message]]

LOOPBACK = "127.0.0.1"
UNASKED: tuple[Message, ...] = (  # the payloads of the last two are ours: the notes give the names only
    {"command": "GET_PROVIDERS", "payload": {}},
    {"command": "REQUEST_CHAT_HISTORY", "payload": {"conversation_id": "interop", "request_id": "history-1"}},
    {"command": "GROUP_SYNC", "payload": {"groups": []}},
)


class BadFrameError(Exception):
    """What arrived is not a DPTP frame."""


class RefusedError(ConnectionError):
    """The handshake ended in something other than HELLO_ACK OK; `message` is what came instead, if anything."""

    def __init__(self, why: str, message: Message | None = None) -> None:
        super().__init__(why)
        self.message = message


class InferenceError(Exception):
    """Raised by a Host's answer callable to make it respond with status error and this sentence."""


# Identity ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """A node's key and certificate; `node_id` is always the true hash, `common_name` what the cert claims."""

    key: rsa.RSAPrivateKey
    cert_pem: str
    node_id: str
    common_name: str


def node_id_of(key: rsa.RSAPublicKey) -> str:
    """Return the node id of a public key."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_bytes(serialization.Encoding.PEM, spki)
    return "dpc-node-" + hashlib.sha256(pem).hexdigest()[:32]


def make_identity(*, common_name: str | None = None, key: rsa.RSAPrivateKey | None = None) -> Identity:
    """Make an identity; `common_name` makes the certificate lie, `key` spares making a new key."""
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
    node_id = node_id_of(key.public_key())
    claimed = common_name or node_id
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, claimed)])
    now = datetime.now(UTC) - timedelta(minutes=1)
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=3650))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return Identity(key, pem, node_id, claimed)


def sign_nonce(key: rsa.RSAPrivateKey, nonce: bytes) -> bytes:
    """Sign a nonce as v1.5 does: RSA-PSS, SHA-256, the longest salt."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    return key.sign(nonce, pss, hashes.SHA256())


def hello_fault(payload: Message, nonce: bytes) -> str | None:
    """Say what is wrong with a HELLO, or None."""
    try:
        key = x509.load_pem_x509_certificate(payload["cert_pem"].encode()).public_key()
        signature = base64.b64decode(payload["nonce_signature"], validate=True)
        if not isinstance(key, rsa.RSAPublicKey) or payload["node_id"] != node_id_of(key):
            return "the node id is not the hash of the certificate's key"
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
        key.verify(signature, nonce, pss, hashes.SHA256())
    except InvalidSignature:
        return "the nonce signature does not verify"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"malformed HELLO: {error!r}"
    return None


def _server_tls(identity: Identity, newest: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, newest
    plain = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder, "node.pem")
        key = identity.key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)
        pem.touch(mode=0o600)
        pem.write_bytes(key + identity.cert_pem.encode())
        context.load_cert_chain(pem)
    return context


def _client_tls(newest: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, newest
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# Frames --------------------------------------------------------------------------------------------------


def encode_frame(message: Message) -> bytes:
    """Encode one message: ten digits of byte length, then UTF-8 JSON."""
    body = json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
    return b"%010d" % len(body) + body


def decode_header(header: bytes) -> int:
    """Return the body length a header announces."""
    if len(header) != 10 or not header.isdigit():
        raise BadFrameError(f"header {header!r}")
    return int(header)


def decode_body(body: bytes) -> Message:
    """Return the message in a frame's body."""
    try:
        message = json.loads(body.decode())
    except ValueError as error:
        raise BadFrameError(f"body {body[:80]!r}") from error
    if not isinstance(message, dict) or not isinstance(message.get("command"), str):
        raise BadFrameError(f"no command in {body[:80]!r}")
    return message


async def _settled(value: T | Awaitable[T]) -> T:
    return await value if inspect.isawaitable(value) else value


class Link:
    """One TLS connection that carries frames; everything read from it is kept in `received`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._closing: asyncio.Task[None] | None = None
        self.received: list[Message] = []
        self.hello: Message = {}

    @property
    def node_id(self) -> str:
        """The id the peer gave in HELLO (on a Host's links)."""
        return str(self.hello.get("node_id"))

    @property
    def peer_certificate(self) -> x509.Certificate:
        """The certificate the other side showed in TLS (a server's; clients show none)."""
        der = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der)

    async def send(self, message: Message) -> None:
        """Send one message."""
        await self.send_raw(encode_frame(message))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, frame or not."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self) -> Message:
        """Read the next message; ConnectionError at the end of the connection."""
        try:
            length = decode_header(await self._reader.readexactly(10))
            message = decode_body(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ConnectionError("the peer closed the connection") from error
        self.received.append(message)
        return message

    def drop(self) -> None:
        """Lose the connection without a goodbye."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection and wait until it is gone; harmless twice, and survives its caller."""
        self._closing = self._closing or asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


# Server role ---------------------------------------------------------------------------------------------


class Host:
    """The server role: shakes hands, greets, lists providers and answers inference requests whole.

    `answer` gets the request's payload and returns the text, or a dict of response fields (which override the
    usual ones), or raises InferenceError; it may be async. `delay` postpones each answer, and with `batch` above
    one answers are held until that many are ready and then leave last asked first. Hostile: `nonce` chooses the
    challenge, `challenge_extra` and `ack_extra` add or override fields, `verify=False` lets any HELLO in, `greet`
    replaces the three unasked-for commands. What `answer` raises by mistake is raised again when the host closes.
    """

    def __init__(
        self,
        identity: Identity,
        providers: Sequence[Message] = (),
        answer: Answer = lambda payload: f"echo: {payload['prompt']}",
        *,
        name: str = "v1.5 host",
        delay: float = 0.0,
        batch: int = 1,
        nonce: NonceSource = lambda: ssl.RAND_bytes(32),
        challenge_extra: Message | None = None,
        ack_extra: Message | None = None,
        verify: bool = True,
        greet: Sequence[Message] = UNASKED,
        newest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self.identity, self.name, self.answer, self.greet = identity, name, answer, greet
        self.providers = list(providers)
        self.delay, self.batch, self.nonce, self.verify = delay, batch, nonce, verify
        self.challenge_extra, self.ack_extra = challenge_extra or {}, ack_extra or {}
        self.newest_tls = newest_tls
        self.received: list[Message] = []
        self.refusals: list[str] = []
        self.connections: list[Link] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: list[Link] = []
        self._failures: list[BaseException] = []
        self._held: list[tuple[int, Link, Message]] = []
        self._news = asyncio.Event()

    @property
    def address(self) -> str:
        """The dpc:// address of this host."""
        return f"dpc://{LOOPBACK}:{self.port}?node_id={self.identity.node_id}"

    async def __aenter__(self) -> Self:
        tls = _server_tls(self.identity, self.newest_tls)
        self._server = await asyncio.start_server(
            self._accept, LOOPBACK, 0, ssl=tls, ssl_handshake_timeout=5, ssl_shutdown_timeout=1
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            while tasks := list(self._tasks):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            for link in self._links:  # a cancelled task may not have finished that
                await link.close()
            await self._server.wait_closed()
        if self._failures:
            raise self._failures[0]

    async def heard(self, command: str, count: int = 1, timeout: float = 5.0) -> list[Message]:
        """Wait until `command` has been received `count` times in all, and return those messages."""
        async with asyncio.timeout(timeout):
            while len(found := [m for m in self.received if m["command"] == command]) < count:
                self._news.clear()
                await self._news.wait()
        return found

    async def peer(self, count: int = 1, timeout: float = 5.0) -> Link:
        """Wait until `count` peers are connected and return the last to come."""
        async with asyncio.timeout(timeout):
            while len(self.connections) < count:
                self._news.clear()
                await self._news.wait()
        return self.connections[-1]

    async def push_providers(self) -> None:
        """Send everyone connected the present list, unasked."""
        for link in self.connections:
            await self._send_providers(link)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConnectionError):  # a peer may leave at any time
            self._failures.append(error)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        self._links.append(link)
        self._start(self._serve(link))

    async def _read(self, link: Link) -> Message:
        message = await link.read()
        self.received.append(message)
        self._news.set()
        return message

    async def _serve(self, link: Link) -> None:
        try:
            await self._handshake(link)
            self.connections.append(link)
            self._news.set()
            for message in self.greet:
                await link.send(message)
            while True:
                await self._dispatch(link, await self._read(link))
        except (RefusedError, BadFrameError) as error:
            self.refusals.append(str(error))
            self._news.set()
        finally:
            if link in self.connections:
                self.connections.remove(link)
            await link.close()

    async def _handshake(self, link: Link) -> None:
        nonce = await _settled(self.nonce())
        challenge = {"nonce": base64.b64encode(nonce).decode()} | self.challenge_extra
        await link.send({"command": "HELLO_CHALLENGE", "payload": challenge})
        message = await self._read(link)
        hello = message.get("payload")
        if message["command"] != "HELLO" or not isinstance(hello, dict):
            raise RefusedError("the first message is no HELLO", message)
        if self.verify and (fault := hello_fault(hello, nonce)):
            raise RefusedError(fault, message)
        ack = {"command": "HELLO_ACK", "status": "OK", "name": self.name, "node_id": self.identity.node_id}
        await link.send(ack | self.ack_extra)
        link.hello = hello

    async def _dispatch(self, link: Link, message: Message) -> None:
        if message["command"] == "GET_PROVIDERS":
            await self._send_providers(link)
        elif message["command"] == "REMOTE_INFERENCE_REQUEST":
            order = len(self.received)
            self._start(self._infer(link, order, message["payload"]))

    async def _send_providers(self, link: Link) -> None:
        await link.send({"command": "PROVIDERS_RESPONSE", "payload": {"providers": self.providers}})

    async def _infer(self, link: Link, order: int, payload: Message) -> None:
        response: Message = {"request_id": payload["request_id"]}
        try:
            outcome: str | Message = await _settled(self.answer(payload))
        except InferenceError as error:
            response |= {"status": "error", "error": str(error)}
        else:
            response |= self._success(payload, outcome)
        await asyncio.sleep(self.delay)
        self._held.append((order, link, response))
        if len(self._held) >= self.batch:
            ready, self._held = sorted(self._held, key=lambda held: -held[0]), []
            for _, to, fields in ready:
                with contextlib.suppress(ConnectionError):
                    await to.send({"command": "REMOTE_INFERENCE_RESPONSE", "payload": fields})

    def _success(self, payload: Message, outcome: str | Message) -> Message:
        fields = {"response": outcome} if isinstance(outcome, str) else outcome
        asked = len(payload["prompt"].split())
        said = len(str(fields.get("response", "")).split())
        first = self.providers[0] if self.providers else {}
        return {
            "status": "success",
            "tokens_used": asked + said,
            "prompt_tokens": asked,
            "response_tokens": said,
            "model_max_tokens": first.get("context_window") or 4096,
            "model": payload.get("model") or first.get("model", "unknown"),
            "provider": payload.get("provider") or first.get("alias", "unknown"),
        } | fields


# Client role ---------------------------------------------------------------------------------------------


class Asker:
    """The client role. `await connect()` does all of it; `open`, `challenge` and `hello` are its three steps.

    Everything received is in `received`. `receive` and `expect` give what `ask` and `get_providers` did not take.
    Hostile: `node_id`, `cert_pem` and `key` (which signs) replace the identity's own in HELLO, `sign` signs
    elsewhere, `signed=False` leaves the signature out, `hello_extra` adds or overrides HELLO fields, `replay` is
    sent as the whole HELLO message, `silent=True` never says HELLO. `probe` is the bare TCP connection first.
    `expected_node_id` is compared with the certificate's CN, as weakly as v1.5 does.
    """

    def __init__(
        self,
        identity: Identity,
        port: int,
        host: str = LOOPBACK,
        *,
        name: str = "v1.5 asker",
        expected_node_id: str | None = None,
        providers: Sequence[Message] = (),
        node_id: str | None = None,
        cert_pem: str | None = None,
        key: rsa.RSAPrivateKey | None = None,
        sign: Signer | None = None,
        signed: bool = True,
        hello_extra: Message | None = None,
        replay: Message | None = None,
        silent: bool = False,
        probe: bool = True,
        greet: Sequence[Message] = UNASKED,
        newest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self.identity, self.host, self.port, self.name = identity, host, port, name
        self.expected_node_id, self.providers = expected_node_id, list(providers)
        self.node_id, self.cert_pem = node_id or identity.node_id, cert_pem or identity.cert_pem
        self.sign: Signer = sign or (lambda nonce: sign_nonce(key or identity.key, nonce))
        self.signed, self.silent, self.probe, self.newest_tls = signed, silent, probe, newest_tls
        self.hello_extra, self.replay, self.greet = hello_extra or {}, replay, greet
        self.nonce = b""
        self.challenge_payload: Message = {}
        self.sent_hello: Message | None = None
        self.ack: Message = {}
        self._link: Link | None = None
        self._pump: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._lists: deque[asyncio.Future[Message]] = deque()
        self._end: Exception | None = None

    @property
    def link(self) -> Link:
        """The connection underneath."""
        if self._link is None:
            raise ConnectionError("not open")
        return self._link

    @property
    def received(self) -> list[Message]:
        """Every message received so far, oldest first."""
        return self.link.received

    async def __aenter__(self) -> Self:
        """Connect; a peer that refuses raises here."""
        try:
            return await self.connect()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, timeout: float = 10.0) -> Self:
        """Do all three steps (the first two if silent)."""
        async with asyncio.timeout(timeout):
            await self.open()
            await self.challenge()
            if not self.silent:
                await self.hello()
        return self

    async def open(self) -> None:
        """Open the TLS connection, after the bare one."""
        if self.probe:
            _, bare = await asyncio.open_connection(self.host, self.port)
            bare.close()
            await bare.wait_closed()
        tls = _client_tls(self.newest_tls)
        opened = await asyncio.open_connection(self.host, self.port, ssl=tls, ssl_shutdown_timeout=1)
        self._link = Link(*opened)
        names = self.link.peer_certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if self.expected_node_id not in (None, *(name.value for name in names)):
            raise RefusedError(f"the certificate does not name {self.expected_node_id}")

    async def challenge(self) -> bytes:
        """Wait for HELLO_CHALLENGE and return (and keep) its nonce."""
        message = await self.link.read()
        if message["command"] != "HELLO_CHALLENGE":
            raise RefusedError(f"{message['command']} instead of HELLO_CHALLENGE", message)
        self.challenge_payload = message["payload"]
        self.nonce = base64.b64decode(self.challenge_payload["nonce"], validate=True)
        return self.nonce

    async def hello(self) -> Message:
        """Send HELLO, wait for HELLO_ACK and return it, then greet and start listening."""
        if self.replay is None:
            payload: Message = {"node_id": self.node_id, "name": self.name, "cert_pem": self.cert_pem}
            if self.signed:
                signature = await _settled(self.sign(self.nonce))
                payload["nonce_signature"] = base64.b64encode(signature).decode()
            self.sent_hello = {"command": "HELLO", "payload": payload | self.hello_extra}
        else:
            self.sent_hello = self.replay
        await self.link.send(self.sent_hello)
        self.ack = await self.link.read()
        if self.ack["command"] != "HELLO_ACK" or self.ack.get("status") != "OK":
            raise RefusedError(f"{self.ack} instead of HELLO_ACK OK", self.ack)
        self._pump = asyncio.create_task(self._listen())
        for message in self.greet:
            if message["command"] == "GET_PROVIDERS":
                self._expect_list()
            await self.link.send(message)
        return self.ack

    async def send(self, message: Message) -> None:
        """Send one message of any shape."""
        await self.link.send(message)

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.link.send_raw(data)

    async def receive(self, timeout: float = 5.0) -> Message:
        """Return the next message nobody took; ConnectionError once the peer has closed."""
        async with asyncio.timeout(timeout):
            if self._pump is None:
                return await self.link.read()
            item = await self._inbox.get()
        if isinstance(item, Exception):
            self._inbox.put_nowait(item)
            raise item
        return item

    async def expect(self, command: str, timeout: float = 5.0) -> Message:
        """Return the next `command` nobody took, passing over others."""
        async with asyncio.timeout(timeout):
            while (message := await self.receive(timeout))["command"] != command:
                pass
        return message

    async def get_providers(self, timeout: float = 5.0) -> list[Message]:
        """Ask for the providers and return them."""
        future = self._expect_list()
        await self.send({"command": "GET_PROVIDERS", "payload": {}})
        async with asyncio.timeout(timeout):
            payload = await future
        providers: list[Message] = payload["providers"]
        return providers

    async def ask(
        self,
        prompt: str,
        model: str | None = None,
        provider: str | None = None,
        images: Sequence[Message] | None = None,
        *,
        request_id: str | None = None,
        extra: Message | None = None,
        timeout: float = 10.0,
    ) -> Message:
        """Send one request and return its response's payload, success or error."""
        request_id = request_id or str(uuid.uuid4())
        optional = {"model": model, "provider": provider, "images": images and list(images)}
        payload: Message = {"request_id": request_id, "prompt": prompt}
        payload |= {field: value for field, value in optional.items() if value} | (extra or {})
        future = self._answers[request_id] = self._future()
        try:
            await self.send({"command": "REMOTE_INFERENCE_REQUEST", "payload": payload})
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._answers.pop(request_id, None)

    def drop(self) -> None:
        """Lose the connection without a goodbye."""
        self.link.drop()

    async def close(self) -> None:
        """Close the connection; harmless twice or before it is open."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        if self._link is not None:
            await self._link.close()

    def _future(self) -> asyncio.Future[Message]:
        if self._end is not None:
            raise self._end
        return asyncio.get_running_loop().create_future()

    def _expect_list(self) -> asyncio.Future[Message]:
        future = self._future()
        self._lists.append(future)
        return future

    async def _listen(self) -> None:
        try:
            while True:
                await self._dispatch(await self.link.read())
        except Exception as error:  # whoever waits is told, whatever it was
            self._end = error
        finally:
            end = self._end = self._end or ConnectionError("closed by this side")
            self._inbox.put_nowait(end)
            for future in (*self._answers.values(), *self._lists):
                if not future.done():
                    future.set_exception(end)
                    future.exception()  # mark as seen: the greeting's list is awaited by nobody

    async def _dispatch(self, message: Message) -> None:
        command, payload = message["command"], message.get("payload") or {}
        waiting: asyncio.Future[Message] | None = None
        if command == "GET_PROVIDERS":
            return await self.send({"command": "PROVIDERS_RESPONSE", "payload": {"providers": self.providers}})
        if command == "PROVIDERS_RESPONSE" and self._lists:
            waiting = self._lists.popleft()
        elif command == "REMOTE_INFERENCE_RESPONSE":
            waiting = self._answers.pop(payload.get("request_id", ""), None)
        if waiting is None:
            self._inbox.put_nowait(message)
        elif not waiting.done():
            waiting.set_result(payload)
        return None
