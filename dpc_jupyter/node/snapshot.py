"""Make the frozen snapshots of `status` from the rooms of a node."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace

from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.reaching import Directory
from dpc_jupyter.node.rooms import Rooms
from dpc_jupyter.node.status import KnownPeer, NodeStatus, PeerStatus, RequestStatus
from dpc_jupyter.sanitize import label


def peer_status(directory: Directory, peer: Peer) -> PeerStatus:
    """Return one link as it is now."""
    return PeerStatus(
        node_id=peer.node_id,
        session=peer.session,
        name=directory.name_of(peer),
        kind=peer.kind,
        address=peer.address,
        dialled=peer.dialled,
        extended=peer.extended,
        rtt_s=peer.rtt_s,
        models=peer.offers,
        load=peer.load,
        via=tuple(map(directory.name_of, reversed(peer.hops))),
    )


def known_peers(rooms: Rooms) -> tuple[KnownPeer, ...]:
    """Return every peer that was dialled before, and those of the access file that a linked peer would relay to.

    A relay's word adds nobody else: the names that it tells are anybody's.
    """
    directory, links, rules, now = rooms.directory, rooms.links.peers, rooms.access.rules, dt.datetime.now(dt.UTC)
    ours, carriers = rules.node_ids | directory.known.keys(), dict[str, str]()
    for peer in links:
        name = directory.name_of(peer)
        carriers |= {each.node_id: name for each in peer.relays if each.node_id in ours}
    for linked in (rooms.identity.node_id, *(peer.node_id for peer in links)):
        carriers.pop(linked, None)
    dialled = directory.peers()
    listed = {n for n in carriers if rules.lists(n, now) or rules.name_of(n) != n} - directory.known.keys()
    return (
        *(replace(each, via=carriers.get(each.node_id, "")) for each in dialled),
        *(KnownPeer(n, directory.name_of(n), 0.0, "", carriers[n]) for n in sorted(listed)),
    )


def node_status(rooms: Rooms) -> NodeStatus:
    """Return the node as it is now."""
    rules, uri = rooms.access.rules, rooms.links.uri
    return NodeStatus(
        node_id=rooms.identity.node_id,
        name=rooms.name,
        session=rooms.session,
        uri=None if uri is None else str(uri),
        sharing=rules.enabled,
        paused=rules.paused,
        tokens=rooms.asker.pieces + rooms.host.pieces,
        access_error=rules.error,
        ledger_error=rooms.ledger.error,
        peers=tuple(peer_status(rooms.directory, peer) for peer in rooms.links.peers),
        hub=rooms.presence.about_hub,
        takes_calls=rooms.presence.takes_calls,
        serving=_serving(rooms),
        asking=_asking(rooms),
    )


def _serving(rooms: Rooms) -> tuple[RequestStatus, ...]:
    now = time.monotonic()
    return tuple(
        RequestStatus(
            served.peer.node_id,
            rooms.directory.name_of(served.peer),
            served.model or label(served.request.model or ""),
            served.state,
            served.position if served.state == "queued" else None,
            now - served.arrived_at,
            served.pieces,
        )
        for served in rooms.host.servings
    )


def _asking(rooms: Rooms) -> tuple[RequestStatus, ...]:
    now = time.monotonic()
    return tuple(
        RequestStatus(
            stream.host,
            stream.host_name,
            stream.model,
            "running" if stream.status is None else stream.status.state,
            None if stream.status is None else stream.status.position,
            now - stream.started_at,
            stream.pieces,
        )
        for stream in rooms.asker.streams
    )
