"""``dpc-jupyter hub``: presence and signalling for a lab."""

from __future__ import annotations

import errno
import hashlib
import socket
import ssl
from pathlib import Path
from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, run, say
from dpc_jupyter.errors import ConfigError
from dpc_jupyter.hub.client.trust import is_loopback
from dpc_jupyter.hub.wire import origin_of

DEFAULT_PORT = 8890


def hub(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen on this address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Listen on this port.")] = DEFAULT_PORT,
    database: Annotated[
        str,
        typer.Option(
            envvar="DPC_HUB_DATABASE",
            metavar="FILE|URL",
            help="An SQLite file, or postgresql://user:password@host/name.",
            show_default="hub.sqlite3 in the node's folder",
        ),
    ] = "",
    redis: Annotated[
        str,
        typer.Option(envvar="DPC_HUB_REDIS", metavar="URL", help="For a hub of several processes: redis://host."),
    ] = "",
    tls_cert: Annotated[Path | None, typer.Option(help="The hub's certificate and its chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.")] = None,
    public_url: Annotated[
        str, typer.Option(help="What nodes dial, if that is another address: they sign it when they log in.")
    ] = "",
    proxy: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A reverse proxy whose X-Forwarded-For is believed.")
    ] = "",
) -> None:
    """Tell nodes of a lab who is online, and carry their calls; prompts never come here.

    The address to give to nodes is the one line on standard output.
    """
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("A certificate needs its key: give both --tls-cert and --tls-key.")
    scheme = "http" if tls_cert is None else "https"
    shown_host = f"[{host}]" if ":" in host else host
    origin = origin_of(public_url or f"{scheme}://{shown_host}:{port}")
    if origin.startswith("http:") and not is_loopback(host):
        raise ConfigError(
            f"Without TLS anybody on the way could act as your users. Give --tls-cert and --tls-key, or, behind a "
            f"proxy that has them, --public-url https://... {host} is not this machine alone."
        )
    try:
        from dpc_jupyter.hub.rest import Settings
        from dpc_jupyter.hub.server import Listen, check, server
    except ImportError as error:
        raise ConfigError(f"The hub needs {error.name}: in a checkout, pip install '.[hub]'") from error
    settings = Settings(origin, database or str(home_of(ctx).path / "hub.sqlite3"), redis)
    run(check(settings))
    _check_free(host, port)
    running = server(settings, Listen(host, port, tls_cert, tls_key, proxy))
    if tls_cert is not None:
        say(f"Certificate's SHA-256 fingerprint: {_fingerprint(tls_cert)}")
    typer.echo(origin)
    running.run()
    if not running.started:
        raise ConfigError(f"The hub could not start on {shown_host}:{port}.")


def _check_free(host: str, port: int) -> None:
    """The address that is printed must be one that the hub has."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"Port {port} is taken: name a free one by --port."
            if taken
            else f"The hub cannot listen at {host}, port {port}: {error.strerror}."
        ) from error


def _fingerprint(certificate: Path) -> str:
    try:
        first, end, _ = certificate.read_text("ascii").partition("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :] + end)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{certificate} is no PEM certificate.") from error
    return hashlib.sha256(der).hexdigest()
