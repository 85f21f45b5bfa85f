from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hub.running_hub import RunningHub

CERT = ("--tls-cert", "missing.pem", "--tls-key", "missing.pem")


def refused(tmp_path: Path, *words: str) -> str:
    environment = os.environ | {"DPC_HOME": str(tmp_path / "home"), "COLUMNS": "500"}
    command = [sys.executable, "-m", "dpc_jupyter.cli", "hub", "--port", "0", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 3), done.stderr  # 3 is uvicorn's own
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--host", "0.0.0.0"), "Without TLS"),
        (("--public-url", "http://hub.lab", "--host", "192.0.2.1"), "Without TLS"),
        (("--tls-cert", "hub.crt"), "both --tls-cert and --tls-key"),
        (("--public-url", "hub.lab"), "is no address of a hub"),
        (("--database", "mysql://host/name"), "SQLite or PostgreSQL"),
        (("--database", "/proc/nowhere/hub.sqlite3"), "cannot be written"),
        (("--database", "postgresql://nobody@127.0.0.1:1/none"), "database does not answer"),
        (("--redis", "redis://127.0.0.1:1"), "Redis does not answer"),
        (("--redis", "nonsense"), "Redis does not answer"),
        (CERT, "no PEM certificate"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    assert why in refused(tmp_path, *words)


def test_a_port_that_is_taken_is_named(tmp_path: Path, hub: RunningHub) -> None:
    assert refused(tmp_path, "--port", str(hub.port)).startswith(f"Port {hub.port} is taken")
    assert "cannot listen at 192.0.2.1" in refused(tmp_path, "--host", "192.0.2.1", "--public-url", "https://hub.lab")


def test_the_client_needs_nothing_of_the_hubs_extra() -> None:
    code = "import sys, dpc_jupyter.hub.client.client; print([m for m in %r if m in sys.modules])"
    extra = ["fastapi", "starlette", "pydantic", "uvicorn", "sqlalchemy", "redis", "jwt", "prometheus_client"]
    done = subprocess.run([sys.executable, "-c", code % extra], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
