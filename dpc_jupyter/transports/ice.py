"""Who may be asked for help on the way to a peer, and aiortc set up so that nobody else is."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpc_jupyter.errors import ConfigError

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

_STUN = re.compile(r"stun:[^\s:?/]+(:[0-9]{1,5})?")
_TURN = re.compile(
    r"(turn:[^\s:?/]+(:[0-9]{1,5})?(\?transport=(udp|tcp))?|turns:[^\s:?/]+(:[0-9]{1,5})?(\?transport=tcp)?)"
)


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A relay that carries what two nodes cannot send each other directly; it sees ciphertext.

    Attributes
    ----------
    url : str
        ``turn:host:port``, with ``?transport=tcp`` where UDP is closed, or ``turns:host:port`` for TLS.
    """

    url: str
    username: str
    credential: str


@dataclass(frozen=True, slots=True)
class IceConfig:
    """Who may be asked for help on the way to a peer; by default nobody.

    Attributes
    ----------
    stun : tuple of str
        ``stun:host:port``: who tells this node its address as the internet sees it. aiortc asks the first one.
    turn : tuple of TurnServer
        aiortc uses the first one.
    relay_only : bool
        Go through TURN alone: the peer and the hub learn none of this machine's addresses.
    """

    stun: tuple[str, ...] = ()
    turn: tuple[TurnServer, ...] = ()
    relay_only: bool = False

    def __post_init__(self) -> None:
        for pattern, urls, example in (
            (_STUN, self.stun, "stun:stun.example.org:3478"),
            (_TURN, [server.url for server in self.turn], "turn:turn.example.org:3478"),
        ):
            for url in urls:
                if not pattern.fullmatch(url):
                    raise ConfigError(f'"{url}" is no such server; write "{example}".')
        if self.relay_only and not self.turn:
            raise ConfigError("relay_only needs a TURN server.")


async def new_connection(ice: IceConfig) -> RTCPeerConnection:
    """A connection with a DTLS key of its own; no socket is open yet."""
    # 55 MiB and most of a second: only who uses WebRTC pays for it, and not on the loop.
    aiortc = await asyncio.to_thread(_import_aiortc)
    servers = [aiortc.RTCIceServer(list(ice.stun[:1]))] if ice.stun else []  # none at all would mean Google's
    servers += [aiortc.RTCIceServer(each.url, each.username, each.credential) for each in ice.turn[:1]]
    policy = aiortc.RTCIceTransportPolicy.RELAY if ice.relay_only else aiortc.RTCIceTransportPolicy.ALL
    configuration = aiortc.RTCConfiguration(iceServers=servers, iceTransportPolicy=policy)
    connection: RTCPeerConnection = aiortc.RTCPeerConnection(configuration)
    return connection


def _import_aiortc() -> Any:
    import aiortc

    return aiortc
