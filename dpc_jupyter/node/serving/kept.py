"""Answers that have ended, for an asker that comes back for one: in memory alone, and bounded in every way."""

from __future__ import annotations

from collections.abc import Callable

from dpc_jupyter.node.serving.served import Serving
from dpc_jupyter.protocol.messages import RESUME_WITHIN_S

# Of one node: as many as a link may have open, and room for the longest answer that MAX_TOKENS allows.
KEEP_LIMIT = 64
KEEP_LIMIT_BYTES = 8 * 1024 * 1024
# Itself, its two strings and its place in the list; an engine's chunk is often a token of three letters.
_CHUNK_BYTES = 160


class KeptAnswers:
    """What the host has said in requests that are over.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic; only differences count.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept_of: dict[str, dict[str, tuple[float, int, Serving]]] = {}

    def add(self, node_id: str, serving: Serving) -> None:
        """Keep one; the oldest of its node make room."""
        kept = self._kept_of.setdefault(node_id, {})
        kept.pop(serving.request.request_id, None)
        size = sum(_CHUNK_BYTES + 2 * (len(chunk.text) + len(chunk.thinking)) for chunk in serving.said)
        kept[serving.request.request_id] = (self._clock(), size, serving)
        while len(kept) > KEEP_LIMIT or sum(held for _, held, _ in kept.values()) > KEEP_LIMIT_BYTES:
            del kept[next(iter(kept))]
        if not kept:
            del self._kept_of[node_id]

    def get(self, node_id: str, request_id: str) -> Serving | None:
        """The request as it ended, if it is still here."""
        found = self._kept_of.get(node_id, {}).get(request_id)
        return None if found is None else found[2]

    def expire(self) -> None:
        """Forget what is older than `RESUME_WITHIN_S`."""
        until = self._clock() - RESUME_WITHIN_S
        for node_id, kept in list(self._kept_of.items()):
            for request_id in [request_id for request_id, (ended_at, _, _) in kept.items() if ended_at < until]:
                del kept[request_id]
            if not kept:
                del self._kept_of[node_id]

    def clear(self) -> None:
        """Forget everything."""
        self._kept_of.clear()
