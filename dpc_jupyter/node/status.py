"""Frozen snapshots of a node, for every face to draw."""

from __future__ import annotations

from dataclasses import dataclass

from dpc_jupyter.protocol.messages import Load, ProviderInfo


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One link.

    Attributes
    ----------
    name : str
        What people here call it, or else what it calls itself.
    kind : str
        How it is reached: ``TLS``, ``WebRTC`` or ``relay``.
    rtt_s : float or None
        Round trip in seconds.
    models : tuple of ProviderInfo
        What it lets us use.
    extended : bool
        It streams, queues and cancels; else it is a plain DPTP v1.5 peer.
    load : Load or None
        How busy it is, by its own word when it was last asked.
    via : tuple of str
        Names of those who carry the link, in the order of the way to it; empty where nobody does.
    """

    node_id: str
    session: str
    name: str
    kind: str
    address: str
    dialled: bool
    extended: bool
    rtt_s: float | None
    models: tuple[ProviderInfo, ...]
    load: Load | None = None
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """One that was dialled before, or that a linked peer would relay us to and that the access file knows.

    Attributes
    ----------
    last_seen : float
        Unix seconds; 0 for one that was never reached.
    reason : str
        Why it could not be reached, if so.
    via : str
        Name of the linked peer that would relay us; empty where none would, or it is linked.
    """

    node_id: str
    name: str
    last_seen: float
    reason: str
    via: str = ""


@dataclass(frozen=True, slots=True)
class InvitationStatus:
    """One invitation of this home.

    Attributes
    ----------
    name : str
        Whom it is for.
    state : str
        ``open``, ``used``, ``revoked`` or ``expired``.
    models, group, expires, limits
        What it gives, as it was typed.
    valid_until : float
        Unix seconds.
    used_by : str
        Node id; empty while nobody has joined by it.
    here_alone : bool
        No way that its line names leads here from another machine.
    """

    invite_id: str
    name: str
    state: str
    models: tuple[str, ...]
    group: str | None
    expires: str | None
    limits: tuple[str, ...]
    valid_until: float
    used_by: str
    here_alone: bool = False


@dataclass(frozen=True, slots=True)
class JoinedHost:
    """A host that an invitation has let us in at.

    Attributes
    ----------
    host : PeerStatus
    known_as : str
        What its owner calls us.
    sharing : bool
        Whether it takes requests now.
    """

    host: PeerStatus
    known_as: str
    sharing: bool


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """One open request, here or elsewhere. `waited_s` counts from its arrival, `tokens` are those so far."""

    peer: str
    peer_name: str
    model: str
    state: str
    position: int | None
    waited_s: float
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as it is now.

    Attributes
    ----------
    uri : str or None
        The address to give to a peer; None while the node does not listen.
    sharing : bool
        The access file says ``compute.enabled``.
    paused : bool
        The access file says ``compute.paused``: new requests of peers are refused for now.
    tokens : int
        Pieces of text since the start, of our answers and of those that peers got here.
    access_error, ledger_error : str or None
        Why the access file denies everyone, or why usage is not being noted.
    serving, asking : tuple of RequestStatus
        Requests of peers here, and ours elsewhere.
    hub : str
        The hub that this node is online at, or why it is not; empty where none is set.
    takes_calls : bool
        Others may call it over that hub.
    """

    node_id: str
    name: str
    session: str
    uri: str | None
    sharing: bool
    paused: bool
    tokens: int
    access_error: str | None
    ledger_error: str | None
    peers: tuple[PeerStatus, ...]
    serving: tuple[RequestStatus, ...]
    asking: tuple[RequestStatus, ...]
    hub: str = ""
    takes_calls: bool = False


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something happened: ``peer_connected``, ``peer_closed``, ``peer_away``, ``models_changed``,
    ``access_changed``, ``access_requested``, ``peer_joined``, ``join_refused``, ``hub_changed``.

    `text` is one sentence, safe to print.
    """

    kind: str
    node_id: str
    text: str
