"""Nodes that ask for access: the owner hears of each, and a refused one is noted in the home."""

from __future__ import annotations

import asyncio
import logging
import time

from dpc_jupyter.errors import DpcError
from dpc_jupyter.home import PENDING_LIMIT
from dpc_jupyter.node.joining import Joined
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.rooms import Rooms
from dpc_jupyter.sanitize import label

_log = logging.getLogger(__name__)


class Arrivals:
    """What becomes known of nodes without access, and of those that have just got it."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._to_note: dict[str, tuple[str, str, float]] = {}
        self._noting = False

    def refused(self, peer: Peer, model: str) -> None:
        """Note a node that asked for a model without access, and tell the owner."""
        self._to_note.pop(peer.node_id, None)
        self._to_note[peer.node_id] = (peer.name, label(model, 128), time.time())
        while len(self._to_note) > PENDING_LIMIT:
            self._to_note.pop(next(iter(self._to_note)))
        if not self._noting:
            self._noting = True
            self._rooms.tasks.spawn(self._note())
        what = f"{peer.name or peer.node_id} ({peer.node_id}) asked for {label(model) or 'a model'} and was refused."
        self._rooms.news.tell("access_requested", peer.node_id, what)

    def joined(self, peer: Peer, joined: Joined) -> None:
        """Tell a node that has joined by an invitation what it may use, and tell the owner."""
        rooms = self._rooms
        rooms.links.reconsider()
        for each in rooms.links.peers:
            if each.node_id == peer.node_id:
                rooms.offers.answer(each)
        if not joined.again:
            what = f"{joined.name} ({peer.node_id}) has joined by invitation and is let in"
            rooms.news.tell("peer_joined", peer.node_id, f"{what}{'' if joined.sharing else ' once sharing is on'}.")

    def not_joined(self, peer: Peer, reason: str) -> None:
        """Tell the owner why an invitation was refused."""
        who = f"{self._rooms.directory.name_of(peer)} ({peer.node_id})"
        what = f"{who} tried an invitation and was refused: {reason.rstrip('.')}."
        self._rooms.news.tell_at_times("guesses", "join_refused", peer.node_id, what)

    async def _note(self) -> None:
        """Write once for all who wait: a flood of strangers must not queue up before the owner's edits."""
        try:
            while self._to_note:
                noted, self._to_note = self._to_note, {}
                try:
                    await asyncio.to_thread(self._rooms.home.note_all_pending, noted)
                except (DpcError, OSError) as error:
                    _log.warning("refused nodes are not noted: %s", error)
                await asyncio.sleep(1.0)
        finally:
            self._noting = False
