"""Serve: answer the requests of peers with the engines of this machine.

`host` resolves the model, asks the rules, takes a place in the queue, streams from the engine and notes the request.
`served` is one request and its outbox. `kept` holds answers that have ended, for an asker that comes back. `offers`
tells peers which models they may use. `access` is the access file in force, and the owner's edits to it.
"""

from __future__ import annotations

from dpc_jupyter.node.serving.access import Access, limits_of, moment, what_changed
from dpc_jupyter.node.serving.host import Host, provider_info
from dpc_jupyter.node.serving.offers import Offers

__all__ = [
    "Access",
    "Host",
    "Offers",
    "limits_of",
    "moment",
    "provider_info",
    "what_changed",
]
