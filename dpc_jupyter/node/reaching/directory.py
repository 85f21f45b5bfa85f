"""Who is known, how they are reached, and what they are called here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dpc_jupyter.errors import DpcError, PeerNotConnected, UriError
from dpc_jupyter.firewall import Rules
from dpc_jupyter.home import Home
from dpc_jupyter.identity import is_node_id, short
from dpc_jupyter.node.links import Peer, PeerUri
from dpc_jupyter.node.status import KnownPeer
from dpc_jupyter.sanitize import label

Change = Callable[[dict[str, Any]], dict[str, Any]]
_REWRITE_S = 120
_ADDRESSES = 4


# What this machine is called where hosts stand.
_OURS = ("local", "this machine")


class Directory:
    """Names and last addresses. A name that people here gave wins over one that a peer claims.

    Parameters
    ----------
    home : Home
        Keeps ``peers.json``.
    rules : callable
        The access file's names.
    """

    def __init__(self, home: Home, rules: Callable[[], Rules]) -> None:
        self._home = home
        self._rules = rules
        self._known: dict[str, dict[str, Any]] = home.read_peers()
        self._lost: dict[str, str] = {}
        self._linked: set[str] = set()
        self._ended_at: dict[str, float] = {}  # in memory: a write is for what outlives the process

    @property
    def known(self) -> dict[str, dict[str, Any]]:
        """``node_id -> {"name", "uri", "by", "last_seen"}`` of every peer that was dialled once."""
        return dict(self._known)

    def remember(
        self, node_id: str, uri: PeerUri | None, claimed_name: str, given_name: str | None, way: str = ""
    ) -> Change | None:
        """Know a peer that was dialled, and return the change that `save` writes to disk, None if it can wait.

        It keeps the first name that it got; only a given name replaces that. Without an address, by which it was not
        reached, it keeps those that it had. `way` is the name of the `ladder.Way` that worked.
        """
        self._lost.pop(node_id, None)
        self._linked.add(node_id)
        before = self._known.get(node_id, {})

        def change(known: dict[str, Any]) -> dict[str, Any]:
            others = {n: dict(entry) for n, entry in known.items() if n != node_id}
            entry = known.get(node_id, {})
            name = given_name or entry.get("name")
            for other in others.values():
                if given_name and other.get("name") == given_name:
                    other["name"] = ""
            if not name:
                taken = self._is_anothers(claimed_name, node_id)
                name = "" if taken or claimed_name in {o.get("name") for o in others.values()} else claimed_name
            uris = _uris(entry) if uri is None else [str(uri), *(each for each in _uris(entry) if each != str(uri))]
            addresses = {"uri": uris[0], "also": uris[1:_ADDRESSES]} if uris else {}
            by = {"by": way} if way else {}
            return {**others, node_id: {"name": name, **addresses, **by, "last_seen": int(time.time())}}

        self._known = change(self._known)
        after = self._known[node_id]
        # A write is an fsync and a lock, and competes with the first request: for the time of day alone, seldom.
        fresh = after["last_seen"] - _seen(before) < _REWRITE_S
        return None if fresh and {**before, "last_seen": after["last_seen"]} == after else change

    def note_lost(self, node_id: str, reason: str) -> None:
        """It could not be reached, or its link has ended."""
        if node_id in self._known:
            self._lost[node_id] = reason
        if node_id in self._linked:
            self._linked.remove(node_id)
            self._ended_at[node_id] = time.time()

    def peers(self) -> tuple[KnownPeer, ...]:
        """Every peer that was dialled once."""
        return tuple(
            KnownPeer(
                node_id,
                self.name_of(node_id),
                max(_seen(entry), self._ended_at.get(node_id, 0.0)),
                self._lost.get(node_id, ""),
            )
            for node_id, entry in self._known.items()
        )

    def save(self, change: Change) -> None:
        """Write a change of `remember`; blocks on the disk."""
        self._home.edit_peers(change)

    def name_of(self, peer: Peer | str) -> str:
        """What to call a node: the name given here, else the claimed one, else its short id."""
        node_id = peer if isinstance(peer, str) else peer.node_id
        owners = self._rules().name_of(node_id)
        given = owners if owners != node_id else self._known.get(node_id, {}).get("name")
        claimed = peer.name if isinstance(peer, Peer) and not given else ""
        return label(given or ("" if self._is_anothers(claimed, node_id) else claimed)) or short(node_id)

    def _is_anothers(self, claimed: str, node_id: str) -> bool:
        """Whether a node claims what another one is called here: side by side they would be taken for each other."""
        named = {n: entry.get("name") for n, entry in self._known.items()} | self._rules().names()
        seen = label(claimed).casefold()
        return seen in _OURS or (
            bool(seen) and any(n != node_id and label(str(name or "")).casefold() == seen for n, name in named.items())
        )

    def uris_of(self, node_id: str) -> list[PeerUri]:
        """Where it was reached, the last address first: a home may run several nodes, each on a port of its own."""
        found = []
        for text in _uris(self._known.get(node_id, {})):
            with contextlib.suppress(UriError):  # people edit the file too
                found.append(PeerUri.parse(text))
        return [uri for uri in found if uri.node_id == node_id]

    def find(self, words: str, peers: Iterable[Peer]) -> str:
        """The node id that a user means by a name, a node id, or the beginning of one.

        A name that an inbound peer merely claims is not accepted: it could be anybody's.

        Raises
        ------
        PeerNotConnected
            Nobody, or more than one, is called so.
        """
        if is_node_id(words):
            return words
        linked = list(peers)
        try:
            return self._find(words, linked)
        except PeerNotConnected:
            with contextlib.suppress(DpcError):  # another process of this home may have met it since
                self._known = {**self._known, **self._home.read_peers()}
            return self._find(words, linked)

    def _find(self, words: str, peers: Sequence[Peer]) -> str:
        dialled = {peer.node_id: peer.name for peer in peers if peer.dialled}
        known = {**dict.fromkeys(dialled, ""), **dict.fromkeys(self._known, "")}
        given = self._rules().node_by_name(words)
        found = {given} if given else {n for n, entry in self._known.items() if entry.get("name") == words}
        if not found:
            found = {node_id for node_id, name in dialled.items() if name == words}
        if not found and len(words) >= 4:
            found = {n for n in known if n.startswith(words) or n.removeprefix("dpc-node-").startswith(words)}
        if len(found) == 1:
            return found.pop()
        if found:
            raise PeerNotConnected(f"{label(words)!r} may be {' or '.join(sorted(found))}: use the node id.")
        names = sorted({self.name_of(node_id) for node_id in known})
        hint = f"Known: {', '.join(names)}." if names else "Connect first: %dpc_connect dpc://..."
        raise PeerNotConnected(f"Nobody is known as {label(words)}. {hint}")


def _uris(entry: Mapping[str, Any]) -> list[str]:
    also = entry.get("also")
    texts = [entry.get("uri"), *(also if isinstance(also, list) else [])]
    return [text for text in texts if isinstance(text, str)]


def _seen(entry: Mapping[str, Any]) -> float:
    """In unix seconds; people edit the file too."""
    seen = entry.get("last_seen")
    return float(seen) if isinstance(seen, int | float) and 0 <= seen < 2**53 else 0.0
