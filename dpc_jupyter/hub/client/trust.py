"""How a client knows its hub: by a certificate authority, by a file of one, or by a certificate's fingerprint."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dpc_jupyter.errors import ConfigError, ConnectError

_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Trust:
    """What is asked of a hub's TLS certificate; neither field: what the machine's authorities sign.

    Attributes
    ----------
    ca_file : Path or None
        PEM certificates to trust instead.
    fingerprint : str
        SHA-256 of the hub's own certificate in hex, colons allowed, as ``dpc-jupyter hub`` prints it. Then the
        certificate's name and issuer do not matter.
    """

    ca_file: Path | None = None
    fingerprint: str = ""

    async def context(self, origin: str) -> ssl.SSLContext | None:
        """What to dial this hub with; None for plain HTTP, which is for this machine alone.

        Raises
        ------
        ConfigError
            The setting cannot be used.
        ConnectError
            The hub cannot be reached, or shows another certificate; or it is asked to be reached without TLS.
        """
        parts = urlsplit(origin)
        host = parts.hostname or ""
        if parts.scheme == "http":
            if not is_loopback(host):
                raise ConfigError(f"{origin} is not encrypted: anybody on the way could act as you. Use https://.")
            return None
        if self.fingerprint:
            return await self._pinned(host, parts.port or 443)
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"The hub's CA file {self.ca_file} cannot be read: {error}.") from error

    async def _pinned(self, host: str, port: int) -> ssl.SSLContext:
        wanted = self.fingerprint.replace(":", "").strip().lower()
        if not re.fullmatch(r"[0-9a-f]{64}", wanted):
            raise ConfigError("The hub's fingerprint is not a SHA-256 in hex: 64 digits, as dpc-jupyter hub prints it.")
        shown = await _shown_certificate(host, port)
        if not hmac.compare_digest(hashlib.sha256(shown).hexdigest(), wanted):
            raise ConnectError("The hub shows another certificate than the one whose fingerprint you set.")
        # Every connection is then checked against this one certificate: it is the only anchor, and need be no CA.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(shown))
        return context


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _shown_certificate(host: str, port: int) -> bytes:
    """What the server shows; nothing is sent to it, and nothing is believed yet."""
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=unchecked)
    except OSError as error:
        raise ConnectError(f"The hub at {host}:{port} cannot be reached: {error}.") from error
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not isinstance(der, bytes):
        raise ConnectError(f"The hub at {host}:{port} shows no certificate.")
    return der
