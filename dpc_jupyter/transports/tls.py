"""Direct TLS: the listener with its gate, and the dialler.

No certificate authority is involved. The dialler shows what certificate it saw; whoever uses the stream compares its
key's hash with the node that was meant before a byte is sent (protocol.md section 2).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import cast

from dpc_jupyter.errors import ConnectError, NobodyListens
from dpc_jupyter.transports.base import Receiver
from dpc_jupyter.transports.gate import HANDSHAKE_S, Gate, HalfOpen

# 8888, where D-PC Messenger listens, is Jupyter's port.
DEFAULT_PORT = 8889
_PORTS_TRIED = 20
# OpenSSH's MaxStartups begins to refuse at 10 and stops at 100. No limit by address: all the kernels of a JupyterHub
# come from one, and whoever holds most gives way anyway.
HALF_OPEN_LIMIT = 64
# For the peer to answer our closing; asyncio's 30 s would let one that never reads hold a descriptor as long.
_SHUTDOWN_S = 2.0
_WRITE_HIGH_BYTES = 256 * 1024


class TlsStream(asyncio.Protocol):
    """A `ByteStream` over an asyncio TLS transport."""

    def __init__(self, address: str = "", server_cert_der: bytes = b"", hops: tuple[str, ...] = ()) -> None:
        self.kind = "relay" if hops else "TLS"
        self.hops = hops
        self.address = address
        self.server_cert_der = server_cert_der
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._early = bytearray()
        self._ended: str | None = None
        self._full = False

    def attach(self, receiver: Receiver) -> None:
        """As `ByteStream.attach`."""
        self._receiver = receiver
        if self._early:
            early, self._early = bytes(self._early), bytearray()
            receiver.data_received(early)
        if self._ended is not None:
            receiver.stream_closed(self._ended)
        elif self._transport is not None:
            self._transport.resume_reading()

    def write(self, data: bytes) -> bool:
        """As `ByteStream.write`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
        return not self._full

    def pause_reading(self) -> None:
        """As `ByteStream.pause_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """As `ByteStream.resume_reading`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def unsent_bytes(self) -> int:
        """As `ByteStream.unsent_bytes`."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """As `ByteStream.close`."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """As `ByteStream.abort`."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From asyncio: the TLS handshake is done."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is not a subclass
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        if self._receiver is None:
            self._transport.pause_reading()
        tls = transport.get_extra_info("ssl_object")
        if not self.server_cert_der:
            self.server_cert_der = tls.getpeercert(binary_form=True)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """From asyncio."""
        if self._receiver is None:
            self._early += data
        else:
            self._receiver.data_received(data)

    def pause_writing(self) -> None:
        """From asyncio."""
        self._full = True

    def resume_writing(self) -> None:
        """From asyncio."""
        self._full = False
        if self._receiver is not None:
            self._receiver.writable()

    def connection_lost(self, error: Exception | None) -> None:
        """From asyncio."""
        self._ended = "the peer closed the connection" if error is None else f"the connection broke ({error})"
        # They hold each other: without this both, and their buffers, would wait for the garbage collector.
        receiver, self._receiver, self._transport = self._receiver, None, None
        if receiver is not None:
            receiver.stream_closed(self._ended)


def client_context() -> ssl.SSLContext:
    """TLS 1.2 or 1.3, no authority: the key's hash is compared by whoever dials."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_context(key_pem: bytes, cert_pem: bytes) -> ssl.SSLContext:
    """TLS 1.2 or 1.3 with the node's own certificate; asks for none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would skip the certificate that the handshake binds to.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    # The ssl module reads certificates from files alone. mkdtemp makes a 0700 folder.
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(key_pem + b"\n" + cert_pem)
        context.load_cert_chain(chain)
    return context


async def dial_over(sock: socket.socket, stream: TlsStream, context: ssl.SSLContext, timeout_s: float) -> TlsStream:
    """Finish the TLS handshake over a connected socket; errors as `dial`."""
    loop = asyncio.get_running_loop()
    create = loop.create_connection if sock.family != socket.AF_UNIX else loop.create_unix_connection
    try:
        async with asyncio.timeout(timeout_s):
            await create(
                lambda: stream,
                sock=sock,
                ssl=context,
                server_hostname="",
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
    except TimeoutError as error:
        raise ConnectError(f"Nothing answered {stream.address} within {timeout_s:g} s.") from error
    except (OSError, ValueError) as error:
        raise ConnectError(f"No connection {stream.address}: {error}.") from error
    return stream


async def dial(host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> TlsStream:
    """Connect and finish the TLS handshake; nothing is sent on the stream yet.

    Raises
    ------
    ConnectError
        Nobody answers there, or what answers does not speak TLS; `NobodyListens` where the machine itself says so.
    """
    loop = asyncio.get_running_loop()
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout_s):
            _, stream = await loop.create_connection(
                lambda: TlsStream(where),
                host,
                port,
                ssl=context,
                server_hostname="",
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
    except TimeoutError as error:
        raise ConnectError(
            f"Nothing answered at {where} within {timeout_s:g} s. Is the host up, the port open?"
        ) from error
    except ConnectionRefusedError as error:
        raise NobodyListens(f"Nothing listens at {where}. Is the host started and sharing?") from error
    except ssl.SSLError as error:
        raise ConnectError(f"What listens at {where} does not speak TLS as a node does.") from error
    except (OSError, ValueError) as error:
        raise ConnectError(f"No connection to {where}: {error}.") from error
    return stream


def _limited_as(address: str) -> str:
    """The address that limits count: an IPv6 customer holds a whole /64, an IPv4 one its address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def _shut_down(sock: socket.socket) -> None:
    """Ends a TLS handshake and a stream alike."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _bind(host: str, port: int) -> list[socket.socket]:
    if not host:
        if socket.has_dualstack_ipv6():
            return [socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)]
        return [socket.create_server(("", port))]
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, str(sockaddr[0])) for family, _, _, _, sockaddr in found):
            taken = bound[0].getsockname()[1] if bound else port
            bound.append(socket.create_server((address, taken), family=family))
    except OSError:
        for sock in bound:
            sock.close()
        raise
    return bound


Accepted = Callable[[TlsStream, HalfOpen], None]


class Listener:
    """Accepts TLS connections and hands them on with their place at the gate.

    Attributes
    ----------
    port : int
        The port taken; a later one when the wanted one was not free.
    """

    def __init__(self, context: ssl.SSLContext, own_cert_der: bytes, accepted: Accepted) -> None:
        self._context = context
        self._own_cert_der = own_cert_der
        self._accepted = accepted
        self._gate = Gate(HALF_OPEN_LIMIT)
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def half_open(self) -> int:
        """Connections that have not finished their HELLO."""
        return len(self._gate)

    def start(self, host: str, port: int) -> None:
        """Listen on `host` (empty: every IPv4 and IPv6 address), from `port` upwards until one is free; 0 is any.

        Raises
        ------
        ConnectError
            The address is not this machine's, or `_PORTS_TRIED` ports in a row are taken.
        """
        last = min(port + _PORTS_TRIED, 65536) if port else 1
        for candidate in range(port, last):
            try:
                self._sockets = _bind(host, candidate)
                break
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise ConnectError(f"Cannot listen on {host or 'any address'}: {error}.") from error
        else:
            raise ConnectError(f"Ports {port} to {last - 1} are taken or not allowed: name a free one.")
        self.port = self._sockets[0].getsockname()[1]
        for sock in self._sockets:
            sock.setblocking(False)
            self._spawn(self._accept(sock))

    async def close(self) -> None:
        """Stop accepting, and drop what has not finished its TLS handshake."""
        tasks = list(self._tasks)
        await asyncio.sleep(0)  # one that is cancelled before its first step never runs its clean-up
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, remote = await loop.sock_accept(listening)
            except OSError:
                # Out of file descriptors, say: it must neither end the listener nor spin it.
                await asyncio.sleep(0.1)
                continue
            self.take(sock, _limited_as(remote[0]), TlsStream(remote[0].removeprefix("::ffff:"), self._own_cert_der))

    def take(self, sock: socket.socket, source: str, stream: TlsStream) -> None:
        """Accept a connection: finish its TLS handshake if the gate has room, counted for `source`."""
        half_open = self._gate.enter(partial(_shut_down, sock), source, HANDSHAKE_S)
        self._spawn(self._secure(sock, stream, half_open))

    async def _secure(self, sock: socket.socket, stream: TlsStream, half_open: HalfOpen) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: stream,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except BaseException as error:
            half_open.done()
            sock.close()
            # ssl.SSLError, ConnectionError and TimeoutError are OSErrors. A bare TCP connection, which D-PC
            # Messenger opens and drops before its own, ends here too: it is no offence.
            if not isinstance(error, OSError):
                raise
        else:
            self._accepted(stream, half_open)
