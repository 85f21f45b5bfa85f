"""A hub with a thousand nodes: how long a call takes through it, and what a node costs it in memory."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from benchmarks.measure import own_memory_bytes, percentile
from benchmarks.processes import free_port
from benchmarks.rows import Row, row
from benchmarks.setting import Setting
from dpc_jupyter import identity
from dpc_jupyter.hub.client.client import HubClient, Signal, Trust

OFFERS_PER_S = 100
# What the first ones load is not the others' cost.
_WARM = 16
_AT_ONCE = 50
_SDP = "v=0\r\n" + "a=candidate:0 1 UDP 2122252543 192.0.2.1 54321 typ host\r\n" * 18  # 1 KiB, as aiortc's
_E = 65537


async def hub(setting: Setting) -> list[Row]:
    """1,000 nodes at one process, 100 offers a second."""
    nodes, seconds = (40, 2) if setting.quick else (1000, 30)
    crowd = list(itertools.islice(_identities(), nodes))
    plain = await _run(setting, crowd, seconds, tls=False)
    over_tls = await _run(setting, crowd, seconds, tls=True)
    return [
        row("hub: signal p50", "ms", plain[0]),
        row("hub: signal p99", "ms", plain[1], "<= 50"),
        row("hub: signal p99, TLS", "ms", over_tls[1], "<= 50"),
        row("hub: memory a node", "KiB", plain[2], "<= 64"),
        row("hub: memory a node, TLS", "KiB", over_tls[2]),
    ]


async def _run(setting: Setting, crowd: Sequence[identity.Identity], seconds: float, *, tls: bool) -> tuple[float, ...]:
    pid, url, trust = await asyncio.to_thread(_start, setting, tls)
    waits: list[float] = []

    def hear(signal: Signal) -> None:
        waits.append((time.perf_counter() - float(signal.payload["began"])) * 1000)

    clients = [HubClient(url, one, f"node{number}", on_signal=hear, trust=trust) for number, one in enumerate(crowd)]
    try:
        await _sign_in(clients[:_WARM])
        before = own_memory_bytes(pid)
        await _sign_in(clients[_WARM:])
        start = time.perf_counter()
        for tick in range(int(seconds * OFFERS_PER_S)):
            await asyncio.sleep(max(0.0, start + tick / OFFERS_PER_S - time.perf_counter()))
            began = time.perf_counter()
            sender, target = random.sample(range(len(crowd)), 2)
            payload = {"type": "offer", "offer": {"type": "offer", "sdp": _SDP}, "began": began}
            await clients[sender].signal(crowd[target].node_id, payload)
        await asyncio.sleep(1.0)
        assert len(waits) == int(seconds * OFFERS_PER_S), f"{len(waits)} signals came"
        memory = (own_memory_bytes(pid) - before) / (len(crowd) - _WARM) / 1024
    finally:
        await asyncio.gather(*(client.close() for client in clients))
        setting.processes.end(pid)
    return percentile(waits, 50), percentile(waits, 99), memory


async def _sign_in(clients: Sequence[HubClient]) -> None:
    for at in range(0, len(clients), _AT_ONCE):
        some = clients[at : at + _AT_ONCE]
        for client in some:
            client.start()
        while not all(client.state.online for client in some):  # noqa: ASYNC110  fifty of them
            await asyncio.sleep(0.01)


def _start(setting: Setting, tls: bool) -> tuple[int, str, Trust]:
    name, port = f"hub{'-tls' if tls else ''}", free_port()
    folder = setting.folder(name)
    folder.mkdir()
    words = ["--port", str(port), "--database", str(folder / "hub.sqlite3")]
    trust = Trust()
    if tls:
        cert = folder / "hub.crt"
        words += ["--tls-cert", str(cert), "--tls-key", str(_certificate(cert))]
        trust = Trust(ca_file=cert)
    pid = setting.processes.program(
        [sys.executable, "-m", "dpc_jupyter.cli", "hub", *words], port=port, name=name, wait_s=20
    )
    return pid, f"{'https' if tls else 'http'}://127.0.0.1:{port}", trust


def _certificate(cert: Path) -> Path:
    key = cert.with_suffix(".key")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hub"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    return key


def _identities() -> Iterator[identity.Identity]:
    """Keys of which many share a prime: worth nothing as secrets, and made a thousand at a time."""
    primes: list[int] = []
    while True:
        numbers = rsa.generate_private_key(public_exponent=_E, key_size=2048).private_numbers()
        for new in (numbers.p, numbers.q):
            yield from (_identity(old, new) for old in primes if gcd(_E, (old - 1) * (new - 1)) == 1)
            primes.append(new)


def _identity(p: int, q: int) -> identity.Identity:
    p, q = max(p, q), min(p, q)
    d = pow(_E, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_E, p * q)
    key = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()
    node_id = identity.node_id_of(key.public_key())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(dt.datetime(2020, 1, 1)).not_valid_after(dt.datetime(2120, 1, 1))
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return identity.load(key_pem, made.sign(key, hashes.SHA256()).public_bytes(pem), node_id)
