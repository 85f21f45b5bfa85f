"""Watch the home: an edit of the access file takes effect while the node runs."""

from __future__ import annotations

import asyncio
import logging
import time

from dpc_jupyter.node.rooms import Rooms
from dpc_jupyter.node.serving import what_changed

# A revoked request must end within a second of the edit.
WATCH_EVERY_S = 0.3
# Engines do not tell when models come and go. Peers are told again when the list differs.
OFFERS_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class Watch:
    """Looks at the access file of one node, and makes every room obey it."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._files = rooms.home.watch()
        self._offered_at = time.monotonic()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            try:
                self._look(await asyncio.to_thread(self._files.changed))
            except Exception:  # whatever it was: what the owner revokes must end at the next look
                _log.exception("the access file was not looked at")

    def _look(self, changed: bool) -> None:
        rooms, before = self._rooms, self._rooms.access.rules
        # A file that could not be read is read again: the fault may have been the disk's, and be over.
        if changed or before.error is not None:
            rooms.access.reload()
            if sentence := what_changed(before, rooms.access.rules):
                rooms.news.tell("access_changed", rooms.identity.node_id, sentence)
        # Without an edit, too: a permission may have expired.
        rooms.links.reconsider()
        rooms.host.reconsider()
        rooms.relays.reconsider()
        if changed or time.monotonic() - self._offered_at > OFFERS_EVERY_S:
            self._offered_at = time.monotonic()
            rooms.offers.push()
            rooms.presence.advertise()
