"""This node's account at one hub: what it calls there, logged in whenever it needs to be.

Whatever the hub answers is bounded, strictly read and made safe to print.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from dpc_jupyter import strict_json
from dpc_jupyter.errors import ConfigError, ConnectError, HandshakeError
from dpc_jupyter.hub.client.trust import Trust, is_loopback
from dpc_jupyter.hub.wire import MESSAGE_LIMIT_BYTES, signed_bytes
from dpc_jupyter.identity import Identity
from dpc_jupyter.sanitize import label

# A hundred nodes with their models; what is longer is no answer of a hub.
_ANSWER_LIMIT_BYTES = 2 * 2**20
_TIMEOUT_S = 10.0
# Of a whole call: a timeout of httpx ends with every byte.
_CALL_S = 3 * _TIMEOUT_S
# A hub that is gone without a word is noticed after both together.
_PING_EVERY_S, _PING_WAIT_S = 10.0, 10.0
# A token is renewed at this part of its life, so that there is time for another try.
_RENEW_AT = 0.8
T = TypeVar("T")


class _Challenge(msgspec.Struct, frozen=True):
    nonce: str
    origin: str


class _Login(msgspec.Struct, frozen=True):
    token: str
    expires_in_s: float


class _Problem(msgspec.Struct, frozen=True):
    detail: str


class _Dial(connect):
    """A websocket's opening that goes nowhere else: the hub is whom its owner named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Account:
    """A node at a hub.

    Parameters
    ----------
    origin : str
        The one that is dialled, and signed.

    Notes
    -----
    Its methods raise ConnectError where the hub cannot be reached or refuses, HandshakeError where it refuses our
    proof or is not whom it should be, ConfigError where `trust` cannot be used.
    """

    def __init__(self, origin: str, identity: Identity, trust: Trust) -> None:
        self.origin = origin
        self._identity = identity
        self._trust = trust
        # A lab's proxy does not reach this machine's own ports.
        self._direct = is_loopback(urlsplit(origin).hostname or "")
        self._context: ssl.SSLContext | None = None
        self._http: httpx.AsyncClient | None = None
        self._token = ""
        self._renew_at = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        if self._http is not None:
            http, self._http = self._http, None
            await http.aclose()

    @property
    def renew_in_s(self) -> float:
        """When the token should be renewed, from now."""
        return max(0.0, self._renew_at - time.monotonic())

    async def token(self) -> str:
        """One that is good for a while; logs in if there is none."""
        async with self._one_at_a_time:
            if not self._token or self.renew_in_s == 0:
                await self._log_in()
            return self._token

    async def call(self, method: str, path: str, answer: type[T], **more: Any) -> T:
        """Make a call with the token, and with a new one if that is refused: the hub may have lost its database."""
        for again in (True, False):
            token = await self.token()
            try:
                return await self._call(method, path, answer, token, **more)
            except HandshakeError:
                self._forget(token)
                if not again:
                    raise
        raise AssertionError

    async def dial(self, **query: str) -> ClientConnection:
        """Open ``/ws/signal``."""
        http = await self._opened()  # the context with it
        assert http is not None
        token = await self.token()
        url = f"{self.origin.replace('http', 'ws', 1)}/ws/signal?{urlencode(query)}"
        try:
            return await _Dial(
                url,
                additional_headers={"Authorization": f"Bearer {token}"},
                ssl=self._context,
                proxy=None if self._direct else True,
                compression=None,
                max_size=MESSAGE_LIMIT_BYTES,
                open_timeout=_TIMEOUT_S,
                close_timeout=1.0,
                ping_interval=_PING_EVERY_S,
                ping_timeout=_PING_WAIT_S,
            )
        except InvalidStatus as error:
            if error.response.status_code == 401:
                self._forget(token)
            raise self._refusal(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, WebSocketException, ImportError) as error:
            raise self._silence(error) from error

    async def _log_in(self) -> None:
        me = self._identity
        challenge = await self._call("POST", "/login/challenge", _Challenge, json={"node_id": me.node_id})
        if challenge.origin != self.origin:
            raise HandshakeError(
                f"The hub at {self.origin} calls itself {label(challenge.origin, 100)}. Use that address if it is the "
                "hub that you mean; nothing was signed."
            )
        signature = me.sign(signed_bytes(self.origin, me.node_id, challenge.nonce))
        began = time.monotonic()
        proof = {
            "node_id": me.node_id,
            "cert_pem": me.cert_pem.decode("ascii"),
            "nonce": challenge.nonce,
            "signature": base64.b64encode(signature).decode("ascii"),
        }
        login = await self._call("POST", "/login", _Login, json=proof)
        if not login.token.isascii() or not login.token.isprintable():
            raise ConnectError(f"The token of the hub at {self.origin} is none.")
        self._token = login.token
        self._renew_at = began + max(1.0, min(login.expires_in_s, 86_400.0) * _RENEW_AT)

    async def _call(self, method: str, path: str, answer: type[T], token: str = "", **more: Any) -> T:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        http = await self._opened()
        body = bytearray()
        try:
            async with (
                asyncio.timeout(_CALL_S) as whole,
                http.stream(method, path, headers=headers, **more) as response,
            ):
                async for piece in response.aiter_raw():  # packed twice, two kilobytes would be two gigabytes
                    body += piece
                    if len(body) > _ANSWER_LIMIT_BYTES:
                        raise ConnectError(f"The answer of the hub at {self.origin} is too long.")
        except (httpx.HTTPError, OSError, ValueError) as error:  # some of what a hub may say httpx fails on by itself
            if whole.expired():
                raise ConnectError(f"The answer of the hub at {self.origin} took more than {_CALL_S:g} s.") from error
            raise self._silence(error) from error
        if not response.is_success:
            raise self._refusal(response.status_code, bytes(body))
        return read(bytes(body) or b"null", answer)

    async def _opened(self) -> httpx.AsyncClient:
        if self._http is None:
            self._context = await self._trust.context(self.origin)
            try:
                self._http = httpx.AsyncClient(
                    base_url=self.origin,
                    headers={"Accept-Encoding": "identity"},
                    verify=self._context or False,  # plain HTTP, on this machine: no certificates to load
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none: a hub has no use for them
                    timeout=_TIMEOUT_S,
                    trust_env=not self._direct,
                )
            except (ImportError, ValueError) as error:  # a proxy of the environment that httpx cannot use
                raise ConfigError(f"The proxy settings cannot be used: {label(str(error), 200)}") from error
        return self._http

    def _forget(self, token: str) -> None:
        if self._token == token:
            self._token = ""

    def _refusal(self, status: int, body: bytes) -> ConnectError | HandshakeError:
        try:
            why = label(read(body, _Problem).detail, 200)
        except ConnectError:
            why = "it does not say why."
        kind = HandshakeError if status == 401 else ConnectError
        return kind(f"The hub at {self.origin} refused ({status}): {why}")

    def _silence(self, error: Exception) -> ConnectError:
        return ConnectError(f"The hub at {self.origin} does not answer: {_why(error)}")


def _why(error: Exception) -> str:
    causes: list[BaseException] = [error]
    for each in causes:  # httpx and anyio wrap what the system said
        causes += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        causes += [cause for cause in (each.__cause__, each.__context__) if cause is not None and cause not in causes]
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return "nothing listens there"
    if any(isinstance(each, socket.gaierror) for each in causes):
        return "no machine of that name is known"
    if any(isinstance(each, httpx.TimeoutException | TimeoutError) for each in causes):
        return f"it was silent for {_TIMEOUT_S:g} s"
    return label(str(error), 200) or type(error).__name__


def read(body: bytes | str, shape: type[T]) -> T:
    """Read what a hub says; raises ConnectError where it is anything else."""
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        return msgspec.convert(strict_json.loads(text), shape)
    except (ValueError, RecursionError) as error:
        raise ConnectError("The hub's answer is not one of a hub.") from error
