"""Real hubs on loopback; a real Redis and a real PostgreSQL where this machine has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpc_jupyter.identity import Identity
from hub import services
from hub.raw_node import RawNode
from hub.running_hub import RunningHub

_MISSING = services.missing()
_LOUD = f"no {_MISSING} here: hubs of several processes were NOT tested (apt-get install redis-server postgresql)"
Start = Callable[..., RunningHub]
needs_services = pytest.mark.skipif(bool(_MISSING), reason=_LOUD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MISSING:
        terminalreporter.write_line(f"!!! {_LOUD}", red=True, bold=True)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One process with SQLite, for the tests of a file."""
    running = RunningHub(tmp_path_factory.mktemp("hub")).start()
    yield running
    running.stop()
    assert "Traceback" not in running.log, running.log


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Start]:
    """Starts hubs of a test's own."""
    started: list[RunningHub] = []

    def start(**more: object) -> RunningHub:
        started.append(RunningHub(tmp_path / "hub", **more).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for running in started:
        running.kill()
        assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="package")
def redis_url() -> Iterator[str]:
    with services.redis() as url:
        yield url


@pytest.fixture(scope="package")
def postgres_url() -> Iterator[str]:
    with services.postgres() as url:
        yield url


@pytest.fixture
def anna(hub: RunningHub, host_id: Identity) -> RawNode:
    return RawNode(hub.url, host_id)


@pytest.fixture
def ben(hub: RunningHub, guest_id: Identity) -> RawNode:
    return RawNode(hub.url, guest_id)


@pytest.fixture
def eve(hub: RunningHub, evil_id: Identity) -> RawNode:
    return RawNode(hub.url, evil_id)
