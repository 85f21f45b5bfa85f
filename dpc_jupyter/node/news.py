"""What happens at a node, told to whoever subscribes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.status import NodeEvent
from dpc_jupyter.sanitize import label

# What its cause may repeat without end is told once a second: a flood of strangers is not a flood of news.
ONCE_EVERY_S = 1.0

_log = logging.getLogger(__name__)


class News:
    """Events of one node, each one sentence."""

    def __init__(self) -> None:
        self._subscribers: dict[Callable[[NodeEvent], None], None] = {}
        self._told_at: dict[str, float] = {}

    def subscribe(self, callback: Callable[[NodeEvent], None]) -> Callable[[], None]:
        """As `CoreService.subscribe`."""
        self._subscribers[callback] = None

        def unsubscribe() -> None:
            self._subscribers.pop(callback, None)

        return unsubscribe

    def tell(self, kind: str, node_id: str, text: str) -> None:
        """Tell everybody."""
        event = NodeEvent(kind, node_id, label(text, 1000))  # one sentence, one line
        for callback in list(self._subscribers):
            try:
                callback(event)
            except Exception:
                # Somebody's drawing code must not end the node's own work.
                _log.exception("a subscriber failed on %s", kind)

    def tell_at_times(self, about: str, kind: str, node_id: str, text: str) -> None:
        """Tell it, if nothing was told `about` the same within `ONCE_EVERY_S`."""
        now = time.monotonic()
        if now - self._told_at.get(about, float("-inf")) >= ONCE_EVERY_S:
            self._told_at[about] = now
            self.tell(kind, node_id, text)

    def tell_of(self, peer: Peer, name: str, kind: str, what: str) -> None:
        """Tell of a peer; of a stranger with its id, since what it calls itself may be a friend's name."""
        if peer.stranger:
            self.tell_at_times("strangers", kind, peer.node_id, f"{name} ({peer.node_id}, not let in) {what}")
        else:
            self.tell(kind, peer.node_id, f"{name} {what}")
