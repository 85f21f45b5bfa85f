"""Reach: find a way to a peer, and keep it.

`directory` knows names and addresses. `ways` lists the ways to a peer and `ladder` races them. `wanted` decides, for
each peer, whether and when to dial; `reach` does what it decides. `relays` carries streams for others. `presence`
makes this node findable: its port, the local network, its hub (`rendezvous`). `network` reads the settings.
"""

from __future__ import annotations

from dpc_jupyter.node.reaching.directory import Directory
from dpc_jupyter.node.reaching.ladder import Attempt
from dpc_jupyter.node.reaching.network import HUB_VARIABLE, Network, set_hub, set_lan
from dpc_jupyter.node.reaching.presence import Presence, log_in
from dpc_jupyter.node.reaching.reach import Reach
from dpc_jupyter.node.reaching.relays import RELAY_MESSAGES, Relays
from dpc_jupyter.node.reaching.ways import Ways

__all__ = [
    "HUB_VARIABLE",
    "RELAY_MESSAGES",
    "Attempt",
    "Directory",
    "Network",
    "Presence",
    "Reach",
    "Relays",
    "Ways",
    "log_in",
    "set_hub",
    "set_lan",
]
