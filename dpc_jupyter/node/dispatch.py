"""What the links tell: which room hears of a link, and which one takes a message."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from dpc_jupyter.errors import Busy, InvalidRequest
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.reaching import RELAY_MESSAGES
from dpc_jupyter.node.rooms import Rooms
from dpc_jupyter.protocol.connection import BadRequest
from dpc_jupyter.protocol.messages import (
    GetProviders,
    InviteClaim,
    InviteResult,
    Message,
    ProvidersResponse,
    RelayData,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceResume,
    RemoteInferenceStatus,
)

_STRANGER_REQUEST_EVERY_S = 1.0
Take = Callable[[Peer, Any], None]


class Dispatch:
    """The node, as its links see it."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._asked_at: dict[str, float] = {}

    @cached_property
    def takes(self) -> dict[type[Message | BadRequest], Take]:
        """For each message the method of the room that takes it. A new message of the wire is one line here."""
        rooms = self._rooms
        return {
            RemoteInferenceChunk: rooms.requester.take_chunk,
            RemoteInferenceResponse: rooms.requester.take_response,
            RemoteInferenceStatus: rooms.requester.take_status,
            RemoteInferenceRequest: self._take_request,
            RemoteInferenceCancel: lambda peer, said: rooms.host.cancel(peer, said.request_id),
            RemoteInferenceResume: lambda peer, said: rooms.host.resume(peer, said.request_id, said.next_index),
            BadRequest: self._refuse_bad,
            GetProviders: lambda peer, _: rooms.offers.answer(peer),
            ProvidersResponse: self._take_offers,
            InviteClaim: rooms.claims.take_claim,
            InviteResult: rooms.claims.take_result,
            **dict.fromkeys(RELAY_MESSAGES, rooms.relays.take),
            RelayData: self._take_relayed,
        }

    def is_known(self, node_id: str) -> bool:
        """Return whether a node has access, to a model or to be relayed: it is no stranger."""
        access = self._rooms.access
        return access.is_known(node_id) or access.rules.may_relay(node_id, dt.datetime.now(dt.UTC))

    def legacy_ok(self, node_id: str) -> bool:
        """Return whether a node may come without channel binding."""
        return self._rooms.access.rules.legacy_ok(node_id)

    def peer_said(self, peer: Peer, message: Message | BadRequest) -> None:
        """Hand a message to its room; one that no room takes is ignored."""
        if (take := self.takes.get(type(message))) is not None:
            take(peer, message)

    def peer_opened(self, peer: Peer) -> None:
        """Ask the peer for its models, and go on with what waits for it."""
        peer.send(GetProviders())
        self._rooms.requester.resume(peer)
        self._tell_of(peer, "peer_connected", f"connected from {peer.address}.")

    def peer_replaced(self, older: Peer, newer: Peer) -> None:
        """Move what is open from a link to the one that takes its place."""
        newer.offers, newer.load = older.offers, older.load  # until it answers, faces show what was known
        self._rooms.requester.move(older, newer)
        self._let_go(older, "it connected anew, and cannot go on with what was open")

    def peer_silent(self, peer: Peer) -> None:
        """Dial another link beside a silent one, if a request is open on it."""
        self._rooms.reach.peer_silent(peer)

    def peer_closed(self, peer: Peer, reason: str) -> None:
        """End or suspend what was open on a link."""
        rooms = self._rooms
        self._let_go(peer, reason)
        if peer.dialled and rooms.links.of(peer.node_id) is None:
            rooms.directory.note_lost(peer.node_id, f"disconnected: {reason}")
        self._tell_of(peer, "peer_closed", f"disconnected: {reason}.")

    def _let_go(self, peer: Peer, reason: str) -> None:
        rooms, name = self._rooms, self._rooms.directory.name_of(peer)
        rooms.host.peer_closed(peer)
        rooms.relays.peer_closed(peer)
        rooms.requester.peer_closed(peer, name, reason)
        rooms.reach.peer_closed(peer, reason)
        rooms.offers.forget(peer)
        rooms.claims.peer_closed(peer, name)

    def _take_request(self, peer: Peer, request: RemoteInferenceRequest) -> None:
        peer.brought = True
        if not self._rooms.access.is_known(peer.node_id):
            now = time.monotonic()
            if now - self._asked_at.get(peer.node_id, -1e9) < _STRANGER_REQUEST_EVERY_S:
                busy = Busy("Busy: one request a second until you are let in.")
                self._rooms.host.refuse(peer, request.request_id, busy)
                return
            if len(self._asked_at) >= 1024:
                self._asked_at.clear()
            self._asked_at[peer.node_id] = now
        self._rooms.host.take_request(peer, request)

    def _refuse_bad(self, peer: Peer, said: BadRequest) -> None:
        self._rooms.host.refuse(peer, said.request_id, InvalidRequest(f"Invalid request: {said.reason}"))

    def _take_offers(self, peer: Peer, said: ProvidersResponse) -> None:
        rooms = self._rooms
        if rooms.offers.take(peer, said):
            name = rooms.directory.name_of(peer)
            rooms.news.tell("models_changed", peer.node_id, f"{name} offers {len(peer.offers)} models.")

    def _take_relayed(self, peer: Peer, said: RelayData) -> None:
        peer.brought = True
        self._rooms.relays.take(peer, said)

    def _tell_of(self, peer: Peer, kind: str, what: str) -> None:
        self._rooms.news.tell_of(peer, self._rooms.directory.name_of(peer), kind, what)
