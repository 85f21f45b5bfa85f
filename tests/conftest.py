"""What every test gets: a home of its own, and identities that were made once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from protocol.ends import Pair

from dpc_jupyter.identity import Identity, generate
from dpc_jupyter.node.reaching.network import LAN_VARIABLE

# No word leaves this machine, nor that of a process that a test starts.
os.environ[LAN_VARIABLE] = "off"
# A shell lets what it runs in the background (`make test &`) ignore Ctrl-C, and all that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine makes no test fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def dpc_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the home of whoever runs it."""
    home = tmp_path / "dpc-home"
    monkeypatch.setenv("DPC_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def identities() -> tuple[Identity, ...]:
    """Making an RSA key takes tens of milliseconds; tests share a few."""
    return tuple(generate() for _ in range(4))


@pytest.fixture(scope="session")
def host_id(identities: tuple[Identity, ...]) -> Identity:
    return identities[0]


@pytest.fixture(scope="session")
def guest_id(identities: tuple[Identity, ...]) -> Identity:
    return identities[1]


@pytest.fixture(scope="session")
def evil_id(identities: tuple[Identity, ...]) -> Identity:
    return identities[2]


@pytest.fixture
def pair(guest_id: Identity, host_id: Identity) -> Pair:
    """Two ends of one conversation in memory, before the handshake."""
    return Pair(guest_id, host_id)
