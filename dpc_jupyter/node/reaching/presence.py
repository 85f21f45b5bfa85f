"""Where this node is found: the port that it listens at, its announcement in the local network, and its hub."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import ConnectError, DpcError
from dpc_jupyter.firewall import Rules
from dpc_jupyter.home import Home
from dpc_jupyter.hub.client.adverts import Advert, FoundNode, Offer
from dpc_jupyter.hub.client.trust import is_loopback
from dpc_jupyter.hub.wire import OFFERS_LIMIT, WORDS_LIMIT, origin_of
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links import Links, PeerUri, is_any_address
from dpc_jupyter.node.reaching.network import Network
from dpc_jupyter.node.tasks import Tasks

if TYPE_CHECKING:
    from dpc_jupyter.hub.client.client import HubState
    from dpc_jupyter.node.reaching.rendezvous import Rendezvous

_ADVERT_NODES, _ADVERT_MODELS = 256, 64

_log = logging.getLogger(__name__)


def _about_hub(state: HubState) -> str:
    return f"online at {state.origin}" if state.online else f"not online at {state.origin}: {state.reason}"


def _fitting(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """As many as an advert holds; who is let in where nearly everybody has rules of his own connects by address."""
    found: list[Offer] = []
    words = 0
    for offer in offers:
        words += offer.words
        if len(found) == OFFERS_LIMIT or words > WORDS_LIMIT:
            break
        found.append(offer)
    return tuple(found)


class Register(Protocol):
    """Where the nodes of this home note where they listen, for the other processes of the home."""

    def note(self, session: str, host: str, port: int) -> None:
        """Note a node that listens."""

    def forget(self, session: str) -> None:
        """Forget a node that has stopped listening."""


class Presence:
    """How others find one node.

    Parameters
    ----------
    register : Register
        Its methods block on the disk.
    rules : callable
        The access file: who may find which models at the hub.
    changed : callable
        Told a sentence when the node goes online or offline.

    Attributes
    ----------
    hub : Rendezvous or None
        The node at its hub, if it has one.
    """

    def __init__(
        self,
        home: Home,
        network: Network,
        identity: Identity,
        name: str,
        session: str,
        links: Links,
        registry: Registry,
        register: Register,
        rules: Callable[[], Rules],
        changed: Callable[[str], None],
    ) -> None:
        self._home = home
        self._network = network
        self._identity = identity
        self._name = name
        self._session = session
        self._links = links
        self._registry = registry
        self._rules = rules
        self._changed = changed
        self._register = register
        self._takes_calls = False
        self._advertised: tuple[Offer, ...] | None = None
        self._advert_due = False
        self._advertising = asyncio.Lock()
        self._tasks = Tasks()
        self.hub: Rendezvous | None = None

    @property
    def about_hub(self) -> str:
        """Whether the node is online, in words; empty without a hub."""
        return "" if self.hub is None else _about_hub(self.hub.state)

    @property
    def takes_calls(self) -> bool:
        """Whether peers may call it over the hub."""
        return self.hub is not None and self._takes_calls

    @property
    def looks_around(self) -> bool:
        """Whether it speaks in the local network, to be found and to find."""
        return self._network.lan

    def start(self, *, takes_calls: bool) -> None:
        """Go online, if there is a hub."""
        self._takes_calls = takes_calls
        self._go_online()

    async def listen(self, host: str, port: int) -> PeerUri:
        """As `CoreService.listen`, once."""
        uri = self._links.listen(host, port)
        try:  # for whoever writes an invitation in another process of this home
            await asyncio.to_thread(self._register.note, self._session, host, uri.port)
        except (DpcError, OSError) as error:
            _log.warning("where this node listens is not noted: %s", error)
        if self._network.lan and not is_loopback(host):
            from dpc_jupyter.transports.lan import announce  # zeroconf: only who listens pays for it

            where = "" if is_any_address(host) else host
            self._tasks.spawn(announce(self._identity.node_id, self._session, where, uri.port))
        if self.hub is not None and not self._takes_calls:  # a hub hears that with the login
            await self.hub.close()
            self._takes_calls = True
            self._go_online()
        return uri

    async def change(self, network: Network) -> None:
        """Be online at another hub, or at none."""
        if self.hub is not None:
            hub, self.hub = self.hub, None
            await hub.close()
        self._network = network
        self._go_online()

    def _go_online(self) -> None:
        if not self._network.hub:
            return
        from dpc_jupyter.node.reaching.rendezvous import Rendezvous  # websockets: only who has a hub pays for it

        self._advertised = None
        self.hub = Rendezvous(
            self._network,
            self._identity,
            self._name,
            self._session,
            self._links,
            takes_offers=self._takes_calls,
            changed=lambda state: self._changed(_about_hub(state)),
        )
        self.hub.start()
        self.advertise()

    async def search(self, *, model: str = "", name: str = "", group: str = "") -> tuple[FoundNode, ...]:
        """As `CoreService.search`."""
        if self.hub is None:
            raise ConnectError(f"No hub is set. %dpc_hub https://... sets one in {self._home.network_path}.")
        return await self.hub.search(model=model, name=name, group=group)

    def advertise(self) -> None:
        """Let everybody who is let in find the models that he may use, and nobody else anything; soon."""
        if not self._advert_due:
            self._advert_due = True
            self._tasks.spawn(self._advertise())

    async def _advertise(self) -> None:
        async with self._advertising:
            self._advert_due = False
            if (hub := self.hub) is not None and self._takes_calls:
                await self._advertise_at(hub)

    async def _advertise_at(self, hub: Rendezvous) -> None:
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        names = list(dict.fromkeys(model.name for _, model in await self._registry.offers()))
        viewers: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for node_id in rules.let_in(now)[:_ADVERT_NODES] if not rules.paused else ():
            models = tuple(rules.get_available_models_for_peer(node_id, names, now))[:_ADVERT_MODELS]
            viewers.setdefault((models, rules.groups_of(node_id)), []).append(node_id)
        offers = _fitting(Offer(models, tuple(ids), groups) for (models, groups), ids in viewers.items() if models)
        if offers != self._advertised and hub is self.hub:
            with suppress(DpcError):  # the hub's state says it; the next look tries again
                await hub.advertise(Advert(offers) if offers else None)
                if hub is self.hub:
                    self._advertised = offers

    async def stop(self) -> None:
        """Be found no more."""
        if self._links.uri is not None:
            with suppress(DpcError, OSError):  # not in a thread: at the interpreter's end there are no new ones
                self._register.forget(self._session)
        await self._tasks.stop()
        if self.hub is not None:
            await self.hub.close()


async def log_in(network: Network, identity: Identity, timeout_s: float) -> None:
    """Log in to the hub once, as a check.

    Raises
    ------
    ConnectError, HandshakeError, ConfigError, UriError
        Why a node cannot be online there now.
    """
    from dpc_jupyter.hub.client.account import Account  # httpx: only who has a hub pays for it

    account = Account(origin_of(network.hub), identity, network.trust)
    try:
        async with asyncio.timeout(timeout_s):
            await account.token()
    except TimeoutError:
        raise ConnectError(f"The hub at {account.origin} did not answer within {timeout_s:g} s.") from None
    finally:
        await account.close()
