"""Join: become a peer of a host by an invitation.

`invitations` makes, lists and revokes the owner's invitations, and lets in the node that proves to hold one. `claims`
is the conversation about one over a link, at both ends. `join`
uses an invitation of another host. `whereabouts` notes where the nodes of this home listen.
"""

from __future__ import annotations

from dpc_jupyter.node.joining.claims import Claims
from dpc_jupyter.node.joining.invitations import EXPIRES, VALID, Invitations, Joined
from dpc_jupyter.node.joining.join import Join
from dpc_jupyter.node.joining.whereabouts import Whereabouts

__all__ = [
    "EXPIRES",
    "VALID",
    "Claims",
    "Invitations",
    "Join",
    "Joined",
    "Whereabouts",
]
