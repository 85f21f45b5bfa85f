"""Links: authenticated connections to peers.

`address` is a peer's address. `peer` is one link: it pumps bytes between a stream and a conversation. `liveness`
tells a silent link from a dead one. `links` listens, dials, admits, and holds the table of peers.
"""

from __future__ import annotations

from dpc_jupyter.node.links.address import PeerUri, is_any_address, machine_addresses
from dpc_jupyter.node.links.links import Links
from dpc_jupyter.node.links.peer import FRAME_BYTES, Peer

__all__ = [
    "FRAME_BYTES",
    "Links",
    "Peer",
    "PeerUri",
    "is_any_address",
    "machine_addresses",
]
