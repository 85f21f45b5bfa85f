"""``network.json``: over whom this node may be found and reached. Without it, over nobody."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import Document
from dpc_jupyter.home import Home
from dpc_jupyter.hub.client.trust import Trust, is_loopback
from dpc_jupyter.hub.wire import origin_of
from dpc_jupyter.transports.ice import IceConfig, TurnServer

HUB_VARIABLE = "DPC_HUB"
LAN_VARIABLE = "DPC_LAN"


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
    lan: bool = True


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
    from_variable : bool
        The hub is that of ``DPC_HUB``, and another than the file's.
    lan : bool
        Whether it announces itself, and looks for others, in the local network. ``DPC_LAN=off`` wins over the file.
    """

    hub: str = ""
    trust: Trust = field(default_factory=Trust)
    ice: IceConfig = field(default_factory=IceConfig)
    from_variable: bool = False
    lan: bool = True

    @classmethod
    def read(cls, home: Home) -> Network:
        """What the home's file and the environment say.

        Raises
        ------
        ConfigError
            The file is no JSON, or holds what it may not; the sentence names the file.
        """
        try:
            file, ice = _checked(home.read_network() or {})
        except (msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"{home.network_path}: {error}") from None
        named = os.environ.get(HUB_VARIABLE, "")
        hub = file.hub or _Hub("")
        lan = file.lan and os.environ.get(LAN_VARIABLE, "") != "off"
        if named and named != hub.url:
            # Another hub than the file's: its certificate is not that one's.
            return cls(named, Trust(), ice, from_variable=True, lan=lan)
        trust = Trust((hub.ca_file and Path(hub.ca_file).expanduser()) or None, hub.fingerprint)
        return cls(hub.url, trust, ice, lan=lan)


def set_hub(home: Home, url: str, trust: Trust = Trust()) -> None:  # noqa: B008  frozen
    """Write the hub of a home's nodes into its file; an empty `url` takes it away. Nodes read it when they start,
    or when `CoreService.change_network` tells them.

    Raises
    ------
    UriError, ConfigError
        It is no hub's address, or one without TLS elsewhere than on this machine; or the file cannot be used.
    """
    origin = origin_of(url) if url else ""
    if origin.startswith("http:") and not is_loopback(urlsplit(origin).hostname or ""):
        raise ConfigError(f"{origin} is not encrypted: anybody on the way could act as you. Use https://.")
    facts = {"url": origin, "ca_file": str(trust.ca_file or ""), "fingerprint": trust.fingerprint}
    _edit(home, "hub", {name: fact for name, fact in facts.items() if fact} if origin else None)


def set_lan(home: Home, on: bool) -> None:
    """Write whether a home's nodes speak in the local network; ConfigError as `set_hub`."""
    _edit(home, "lan", None if on else False)


def _edit(home: Home, key: str, value: object | None) -> None:
    """None takes the key away."""

    def change(document: Document) -> Document:
        new = {name: held for name, held in document.items() if name != key}
        if value is not None:
            new[key] = value
        try:
            _checked(new)
        except (msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"{home.network_path}: {error}") from None
        return new

    home.edit_network(change)


def _checked(document: Document) -> tuple[_File, IceConfig]:
    """What a file holds; keys that begin with _ are notes."""
    file = msgspec.convert({key: value for key, value in document.items() if not key.startswith("_")}, _File)
    turn = tuple(TurnServer(each.url, each.username, each.credential) for each in file.turn)
    return file, IceConfig(tuple(file.stun), turn, file.relay_only)
