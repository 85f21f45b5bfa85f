"""``network.json``: over whom this node may be found and reached. Without it, over nobody."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.home import Home
from dpc_jupyter.hub.trust import Trust
from dpc_jupyter.transports.ice import IceConfig, TurnServer

HUB_VARIABLE = "DPC_HUB"


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    username: str
    credential: str


class _Hub(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    ca_file: str | None = None
    fingerprint: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    hub: _Hub | None = None
    stun: list[str] = []
    turn: list[_Turn] = []
    relay_only: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """Settings of one home.

    Attributes
    ----------
    hub : str
        URL of the hub that this node logs in to; empty for none. The variable ``DPC_HUB`` wins over the file.
    trust : Trust
        How its certificate is checked.
    ice : IceConfig
        STUN and TURN servers.
    """

    hub: str = ""
    trust: Trust = field(default_factory=Trust)
    ice: IceConfig = field(default_factory=IceConfig)

    @classmethod
    def read(cls, home: Home) -> Network:
        """What the home's file and the environment say.

        Raises
        ------
        ConfigError
            The file is no JSON, or holds what it may not; the sentence names the file.
        """
        document = {key: value for key, value in (home.read_network() or {}).items() if not key.startswith("_")}
        try:
            file = msgspec.convert(document, _File)
            turn = tuple(TurnServer(each.url, each.username, each.credential) for each in file.turn)
            ice = IceConfig(tuple(file.stun), turn, file.relay_only)
        except (msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"{home.network_path}: {error}") from None
        named = os.environ.get(HUB_VARIABLE, "")
        hub = file.hub or _Hub("")
        if named and named != hub.url:
            return cls(named, Trust(), ice)  # another hub than the file's: its certificate is not that one's
        return cls(hub.url, Trust((hub.ca_file and Path(hub.ca_file).expanduser()) or None, hub.fingerprint), ice)
