"""The ways to a peer, best first: its last addresses, the local network, the hub, peers that relay."""

from __future__ import annotations

from functools import partial

from dpc_jupyter.errors import HandshakeError, NobodyListens, NotAnnounced
from dpc_jupyter.node.links import Links, Peer, PeerUri
from dpc_jupyter.node.reaching.directory import Directory
from dpc_jupyter.node.reaching.ladder import Way, climb
from dpc_jupyter.node.reaching.presence import Presence
from dpc_jupyter.node.reaching.relays import Relays


class Ways:
    """How one node can dial its peers. A new way to reach a peer is one more `Way` of `to`."""

    def __init__(self, links: Links, relays: Relays, directory: Directory, presence: Presence) -> None:
        self._links = links
        self._relays = relays
        self._directory = directory
        self._presence = presence

    def to(self, node_id: str, timeout_s: float, *, nearby: bool = True) -> list[Way]:
        """Return every way to a node, best first; with the local network's only if `nearby`."""
        ways = [self.direct(uri, timeout_s) for uri in self._directory.uris_of(node_id)]
        if nearby and self._presence.looks_around:
            ways.append(Way("TLS in the local network", partial(self._dial_nearby, node_id, timeout_s)))
        return [*ways, *self._over_hub(node_id, timeout_s), *self._over_peers(node_id, timeout_s)]

    def direct(self, uri: PeerUri, timeout_s: float) -> Way:
        """Return the way to one address."""
        return Way(f"TLS at {uri.host}:{uri.port}", partial(self._links.connect, uri, timeout_s))

    async def _dial_nearby(self, node_id: str, timeout_s: float) -> Peer:
        from dpc_jupyter.transports.lan import find  # zeroconf: imported only by a node that searches

        found = await find(node_id)
        if not found:
            raise NotAnnounced("It is not in the local network: use its dpc:// address once.")
        try:
            peer, _ = await climb([self.direct(PeerUri(host, port, node_id), timeout_s) for host, port in found])
        except (NobodyListens, HandshakeError) as error:  # anybody can announce any id: that says nothing of other ways
            raise NotAnnounced(str(error)) from error
        # The announcer may pass everything on to the real node. That is for this network, and not an address to keep.
        peer.uri = None
        return peer

    def _over_hub(self, node_id: str, timeout_s: float) -> list[Way]:
        hub = self._presence.hub
        return [] if hub is None else [Way("WebRTC", partial(hub.dial, node_id, timeout_s), 1)]

    def _over_peers(self, node_id: str, timeout_s: float) -> list[Way]:
        return [
            Way(
                f"over {self._directory.name_of(via)}",
                partial(self._dial_over, via, node_id, timeout_s),
                2 + len(via.hops),
            )
            for via in self._links.peers
            if any(each.node_id == node_id for each in via.relays)
        ]

    async def _dial_over(self, via: Peer, node_id: str, timeout_s: float) -> Peer:
        sock = await self._relays.dial(via, node_id, timeout_s)
        return await self._links.dial_over(sock, node_id, via, timeout_s)
