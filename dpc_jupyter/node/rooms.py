"""The rooms of one node."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from dpc_jupyter.ledger import Ledger
from dpc_jupyter.node.asking import Asker, Requester, Unfinished
from dpc_jupyter.node.joining import Claims, Invitations, Join
from dpc_jupyter.node.links import Links
from dpc_jupyter.node.news import News
from dpc_jupyter.node.reaching import Directory, Presence, Reach, Relays
from dpc_jupyter.node.serving import Access, Host, Offers
from dpc_jupyter.node.tasks import Tasks
from dpc_jupyter.node.writes import Writes
from dpc_jupyter.protocol.messages import SHUTTING_DOWN


@dataclass(kw_only=True, slots=True)
class Rooms:
    """The rooms of one node, and what they share. `compose` fills it once."""

    home: Home
    name: str
    session: str
    identity: Identity
    access: Access
    directory: Directory
    ledger: Ledger
    registry: Registry
    invitations: Invitations
    news: News = field(default_factory=News)
    tasks: Tasks = field(default_factory=Tasks)
    writes: Writes = field(default_factory=Writes)
    links: Links = field(init=False)
    relays: Relays = field(init=False)
    presence: Presence = field(init=False)
    reach: Reach = field(init=False)
    requester: Requester = field(init=False)
    unfinished: Unfinished = field(init=False)
    asker: Asker = field(init=False)
    host: Host = field(init=False)
    offers: Offers = field(init=False)
    claims: Claims = field(init=False)
    join: Join = field(init=False)

    async def stop(self, reason: str = SHUTTING_DOWN) -> None:
        """Stop asking first, then reaching and serving, and the links last."""
        await self.asker.stop()
        await self.tasks.stop()
        await self.reach.stop()
        await self.writes.finish()
        await self.claims.stop()
        await self.offers.stop()
        await self.host.stop()
        await self.relays.stop()
        await self.presence.stop()
        await self.links.close(reason)
        await self.registry.close()
        self.ledger.close()  # not in a thread: at the interpreter's end there are no new ones
