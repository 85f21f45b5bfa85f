"""Wire the rooms of one node: the only place that makes them."""

from __future__ import annotations

import platform
import uuid
from functools import partial

from dpc_jupyter.backends.registry import Registry, open_registry
from dpc_jupyter.home import Home
from dpc_jupyter.ledger import Ledger
from dpc_jupyter.node.arrivals import Arrivals
from dpc_jupyter.node.asking import Asker, Requester, Unfinished
from dpc_jupyter.node.dispatch import Dispatch
from dpc_jupyter.node.joining import Claims, Invitations, Join, Whereabouts
from dpc_jupyter.node.links import Links
from dpc_jupyter.node.reaching import Directory, Network, Presence, Reach, Relays, Ways
from dpc_jupyter.node.rooms import Rooms
from dpc_jupyter.node.serving import Access, Host, Offers
from dpc_jupyter.sanitize import label


def compose(home: Home, name: str | None, registry: Registry | None) -> Rooms:
    """Make the rooms of a node, each with those that it needs."""
    identity, access = home.load_identity(), Access(home)
    network = Network.read(home)
    rooms = Rooms(
        home=home,
        name=label(name or platform.node() or "node"),
        session=str(uuid.uuid4()),
        identity=identity,
        access=access,
        directory=Directory(home, lambda: access.rules),
        ledger=Ledger(home.ledger_path),
        registry=registry or open_registry(home.read_providers(), home.models_folder),
        invitations=Invitations(home, access),
    )
    arrivals = Arrivals(rooms)
    rooms.links = Links(identity, rooms.name, rooms.session, Dispatch(rooms), network.ice)
    _ask(rooms)
    _reach(rooms, network)
    rooms.host = Host(rooms.registry, rooms.ledger, lambda: access.rules, arrivals.refused)
    rooms.offers = Offers(rooms.host)
    rooms.claims = Claims(identity.node_id, rooms.invitations, arrivals.joined, arrivals.not_joined)
    rooms.join = Join(identity.node_id, rooms.reach, rooms.presence, rooms.directory, rooms.claims, rooms.offers)
    return rooms


def _ask(rooms: Rooms) -> None:
    rooms.requester = Requester(rooms.identity.node_id)
    rooms.unfinished = Unfinished(rooms.home, rooms.identity.key_pem)
    rooms.asker = Asker(rooms.requester, rooms.registry, rooms.unfinished, rooms.ledger, rooms.writes.add)


def _reach(rooms: Rooms, network: Network) -> None:
    rooms.relays = Relays(
        rooms.identity.node_id,
        lambda: rooms.access.rules,
        lambda: rooms.links.peers,
        rooms.directory.name_of,
        rooms.links.accept_over,
    )
    rooms.presence = Presence(
        rooms.home,
        network,
        rooms.identity,
        rooms.name,
        rooms.session,
        rooms.links,
        rooms.registry,
        Whereabouts(rooms.home),
        lambda: rooms.access.rules,
        lambda about: rooms.news.tell("hub_changed", rooms.identity.node_id, f"This node is {about}"),
    )
    rooms.reach = Reach(
        rooms.links,
        Ways(rooms.links, rooms.relays, rooms.directory, rooms.presence),
        rooms.directory,
        rooms.requester,
        partial(rooms.writes.add, rooms.directory.save),
        rooms.news.tell,
    )
