"""A node's side of a hub: online, findable, and back again after a break, for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from dpc_jupyter.errors import ConfigError, ConnectError, DpcError, HandshakeError
from dpc_jupyter.hub.client.account import Account, read
from dpc_jupyter.hub.client.adverts import Advert, FoundNode, FoundNodes, Offer
from dpc_jupyter.hub.client.trust import Trust
from dpc_jupyter.hub.limits import Rate
from dpc_jupyter.hub.wire import (
    CALLING,
    PAYLOAD_LIMIT_BYTES,
    REPLACED,
    ErrorFromHub,
    SignalHeard,
    SignalToHub,
    TokenToHub,
    encode,
    is_session,
    origin_of,
)
from dpc_jupyter.identity import NODE_ID, Identity, is_node_id
from dpc_jupyter.sanitize import label

__all__ = ["Advert", "FoundNode", "HubClient", "HubState", "Offer", "Signal", "Trust"]

# A hub that is back is found within 5 s; a thousand nodes that look for it make some 500 attempts a second.
_WAIT_MAX_S = 4.0
# For an advert or a token that the hub did not take; a token has three minutes left then.
_TRY_AGAIN_S = 30.0
# Signals a second that a hub, which may lie, can make this node look at, and a class that starts at once: of those whom
# this node awaits, and as many of all others, for keys are free.
_SIGNALS = (50.0, 200.0)
# As our hub writes it: who it is about is looked up before anything is read.
_WHOSE = re.compile(rf'\{{"type":"(?:signal|error)","(?:sender|target)_node_id":"({NODE_ID})"')
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signal:
    """What another node says through the hub. All of it is the hub's word until it is proven end to end."""

    sender_node_id: str
    payload: dict[str, Any]
    sender_session: str = ""


@dataclass(frozen=True, slots=True)
class HubState:
    """Whether this node can be found and called; `reason` says why not.

    The reason stands behind the origin, and does not say it once more.
    """

    origin: str
    online: bool
    reason: str


def _ended(error: ConnectionClosed) -> str:
    """Why a websocket ended, by the close code that the hub sent."""
    if error.rcvd is None:
        return "the connection broke"
    ends: dict[int, str] = {CloseCode.SERVICE_RESTART: "it is restarting", CloseCode.GOING_AWAY: "it is shutting down"}
    return ends.get(error.rcvd.code) or label(error.rcvd.reason, 200) or f"it closed the connection ({error.rcvd.code})"


class HubClient:
    """One session of this node at one hub. It belongs to the loop that it is started on.

    Parameters
    ----------
    url : str
        ``https://host:port``; ``http://`` on this machine alone. UriError for anything else.
    name : str
        What the node calls itself in its advert.
    session : str
        Tells this kernel from others of the same node; the hub replaces an older websocket of the same session.
    on_signal : callable
        Takes each `Signal`, on the loop. It must not wait, and bounds what it begins.
    on_refused : callable
        Takes the target's node id and a sentence when a signal could not be delivered.
    on_state : callable
        Takes each new `HubState`.
    takes_offers : bool
        False for a node that only asks: offers go to the sessions of its owner that host.
    trust : Trust
        How the hub's certificate is checked.
    awaits : callable
        Whether a node's signals are wanted, and are not to be drowned by those of others.
    """

    def __init__(
        self,
        url: str,
        identity: Identity,
        name: str,
        session: str = "",
        *,
        on_signal: Callable[[Signal], None],
        on_refused: Callable[[str, str], None] | None = None,
        on_state: Callable[[HubState], None] | None = None,
        takes_offers: bool = True,
        trust: Trust = Trust(),  # noqa: B008  frozen
        awaits: Callable[[str], bool] = lambda _: False,
    ) -> None:
        assert is_session(session)
        self._account = Account(origin_of(url), identity, trust)
        self._name = label(name, 128) or "node"
        self._query = {"session": session, "offers": str(takes_offers).lower()}
        self._on_signal, self._on_refused, self._on_state = on_signal, on_refused, on_state
        self._state = HubState(self._account.origin, False, CALLING)
        self._advert: dict[str, Any] | None = None
        self._socket: ClientConnection | None = None
        self._awaits = awaits
        self._heard = Rate(_SIGNALS, time.monotonic)
        self._running: asyncio.Task[None] | None = None

    @property
    def state(self) -> HubState:
        """What to show of it now."""
        return self._state

    def start(self) -> None:
        """Go online, and come back whenever that ends, until `close`."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="hub client")

    async def close(self) -> None:
        """Go offline, which others see at once."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._account.close()
        # Not told: whoever stops it knows, and an owner reads in it that something is wrong.
        self._state = HubState(self._account.origin, False, "It was stopped.")

    async def signal(self, target_node_id: str, payload: dict[str, Any], session: str = "") -> None:
        """Send a payload to another node, or to one session of it; `on_refused` hears if it cannot be delivered.

        Raises
        ------
        ConnectError
            The hub is not reached now, or the payload is over 64 KiB.
        """
        raw = encode(payload)
        if len(raw) > PAYLOAD_LIMIT_BYTES:
            raise ConnectError(f"A signal through the hub has at most {PAYLOAD_LIMIT_BYTES} bytes.")
        if self._socket is None:
            raise ConnectError(f"The hub at {self._account.origin} is not reached. {self._state.reason}")
        await self._send(self._socket, SignalToHub(target_node_id, msgspec.Raw(raw), session))

    async def advertise(self, advert: Advert | None) -> None:
        """Let this node be found so, now and after every reconnect; None takes it back. Offline it is for later.

        Raises
        ------
        ConnectError, HandshakeError
            The hub refused it, or is not reached now. It is tried again at the next reconnect.
        """
        self._advert = None if advert is None else advert.body(self._name)
        if self._socket is not None:
            await self._tell_advert()

    async def search(self, *, model: str = "", name: str = "", group: str = "") -> tuple[FoundNode, ...]:
        """Who is online and shows itself to this node; `model` and `name` by a part of them, `group` whole.

        Raises
        ------
        ConnectError, HandshakeError, ConfigError
            The hub is not reached, or refused; or `trust` cannot be used.
        """
        terms = {"model": model, "name": name, "group": group}
        found = await self._account.call("GET", "/nodes", FoundNodes, params=terms)
        return found.safe()

    async def _run(self) -> None:
        while True:
            try:
                if await self._until_lost() == REPLACED:
                    self._set_state("Another program of this node took over its session.")
                    return
                # A hub that opens and closes must not make us spin.
                await asyncio.sleep(0.2)
            except ConfigError as error:
                self._set_state(str(error))
                return
            except Exception as error:  # no word of a hub may end this
                _log.exception("the hub's client failed")
                self._set_state(f"That failed: {type(error).__name__}; the log has more.")
                await asyncio.sleep(_WAIT_MAX_S)

    async def _until_lost(self) -> int | None:
        """Be online once; returns the websocket's close code."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((ConnectError, HandshakeError)),
            wait=wait_random_exponential(multiplier=0.5, max=_WAIT_MAX_S),
            before_sleep=lambda tried: self._set_state(str(tried.outcome.exception() if tried.outcome else "")),
        )
        socket: ClientConnection = await retrying(self._account.dial, **self._query)
        async with socket:
            return await self._until_closed(socket)

    async def _until_closed(self, socket: ClientConnection) -> int | None:
        """Hear, and keep the token fresh; returns the websocket's close code."""
        self._socket = socket
        self._set_state("", online=True)
        keeping = asyncio.create_task(self._keep(socket))
        why = "it closed the connection"
        try:
            async for text in socket:
                self._hear(text)
        except ConnectionClosed as error:
            why = _ended(error)
        except ConnectError as error:
            why = str(error)
        finally:
            self._socket = None
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        self._set_state(f"The hub at {self._account.origin} was lost: {why}")
        return socket.close_code

    async def _keep(self, socket: ClientConnection) -> None:
        """Advertise, and hand in a new token before the old one ends.

        What fails is tried again: without an advert a node can still be called, and until its token ends, too.
        """
        told, advertised = await self._account.token(), self._advert is None
        while True:
            try:
                if not advertised:
                    await self._tell_advert()
                    advertised = True
                if told != (token := await self._account.token()):
                    await self._send(socket, TokenToHub(token))
                    told = token
                wait_s = self._account.renew_in_s
            except DpcError as error:
                _log.warning("%s", error)
                wait_s = _TRY_AGAIN_S
            await asyncio.sleep(max(1.0, wait_s if advertised else min(wait_s, _TRY_AGAIN_S)))

    async def _tell_advert(self) -> None:
        if self._advert is None:
            await self._account.call("DELETE", "/me", type(None))
        else:
            await self._account.call("PUT", "/me", type(None), json=self._advert)

    async def _send(self, socket: ClientConnection, message: SignalToHub | TokenToHub) -> None:
        try:
            await socket.send(encode(message).decode())
        except ConnectionClosed as error:
            raise ConnectError(f"The hub at {self._account.origin} was lost: {_ended(error)}") from error

    def _hear(self, text: str | bytes) -> None:
        whose = _WHOSE.match(text) if isinstance(text, str) else None
        if self._heard.take("awaited" if whose is not None and self._awaits(whose[1]) else ""):
            return
        message: SignalHeard | ErrorFromHub = read(text, SignalHeard | ErrorFromHub)  # type: ignore[arg-type]
        if not is_node_id(message.sender_node_id if isinstance(message, SignalHeard) else message.target_node_id):
            return
        try:
            if isinstance(message, SignalHeard):
                self._on_signal(Signal(message.sender_node_id, message.payload, message.sender_session))
            elif self._on_refused is not None:
                self._on_refused(message.target_node_id, label(message.error, 200))
        except Exception:
            _log.exception("A listener failed on what came through the hub.")

    def _set_state(self, reason: str, *, online: bool = False) -> None:
        hub = f"The hub at {self._account.origin} "
        reason = f"It {reason.removeprefix(hub)}" if reason.startswith(hub) else reason
        if (online, reason) != (self._state.online, self._state.reason):
            self._state = HubState(self._account.origin, online, reason)
            if self._on_state is not None:
                self._on_state(self._state)
