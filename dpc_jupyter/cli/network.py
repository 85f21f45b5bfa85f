"""``dpc-jupyter network``: over whom this machine's nodes are found and find others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, out, say
from dpc_jupyter.errors import ConfigError
from dpc_jupyter.hub.client.trust import Trust
from dpc_jupyter.node.reaching import HUB_VARIABLE, Network, set_hub, set_lan
from dpc_jupyter.sanitize import label


def network(
    ctx: typer.Context,
    hub: Annotated[str | None, typer.Option(metavar="URL|off", help="Where nodes without an open port meet.")] = None,
    fingerprint: Annotated[
        str, typer.Option(metavar="SHA256", help="Of a self-signed hub's certificate, as it prints it.")
    ] = "",
    ca_file: Annotated[Path | None, typer.Option(help="PEM certificates to trust instead of this machine's.")] = None,
    lan: Annotated[
        bool | None, typer.Option("--lan/--no-lan", help="Announce this node, and find others, in the local network.")
    ] = None,
) -> None:
    """Show or set how this machine's nodes are found; a running node goes on as it is until it is started again."""
    home = home_of(ctx)
    if hub is None and (fingerprint or ca_file):
        raise ConfigError("A certificate is a hub's: give --hub https://... with it.")
    if hub is not None:
        set_hub(home, "" if hub == "off" else hub, Trust(ca_file and ca_file.expanduser().absolute(), fingerprint))
    if lan is not None:
        set_lan(home, lan)
    if hub is not None or lan is not None:
        say(f"{home.network_path} is written; it holds from a node's next start on.")
    named = Network.read(home)
    out.print(f"Hub: {label(named.hub, 200) or 'none'}{f' (by {HUB_VARIABLE})' if named.from_variable else ''}")
    out.print(f"Local network: {'announces itself and looks for others' if named.lan else 'silent'}")
    servers = [*named.ice.stun, *(each.url for each in named.ice.turn)]
    out.print(f"STUN and TURN: {label(', '.join(servers), 400) or 'none'}")
