"""A Redis and a PostgreSQL of our own: on free ports, in folders of their own, ended by their pid."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 30.0
_by_port: dict[int, subprocess.Popen[bytes]] = {}


def redis_server() -> str | None:
    """Where it is, if it is here."""
    return shutil.which("redis-server")


def postgres_bin() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; Debian keeps them off the PATH."""
    folders = [Path(found).parent for found in [shutil.which("initdb")] if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def missing() -> str:
    """What is not here, for one loud line; empty if all is."""
    names = {"Redis": redis_server(), "PostgreSQL": postgres_bin()}
    return " and ".join(name for name, found in names.items() if found is None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() - began < PATIENCE_S, f"nobody listens on {port}"
        time.sleep(0.02)


@contextmanager
def running(argv: Sequence[str], port: int, user: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", user=user
    )
    _by_port[port] = process
    try:
        until_listening(port, process)
        yield process
    finally:
        _end(process)


def end(port: int) -> None:
    """End the one of ours that listens here."""
    _end(_by_port[port])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown, which ends its children too
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@contextmanager
def redis(port: int | None = None) -> Iterator[str]:
    """Its URL."""
    port = port or free_port()
    found = redis_server()
    assert found
    words = [found, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/"]
    with running(words, port):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database; its server refuses to run as root."""
    folder, port = Path(tempfile.mkdtemp(prefix="dpc-postgres-")), free_port()
    programs = postgres_bin()
    assert programs
    user = "postgres" if os.name == "posix" and os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    name = user or getpass.getuser()
    try:
        make = [
            str(programs / "initdb"),
            "-D",
            str(folder / "data"),
            "-A",
            "trust",
            "-U",
            name,
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(make, check=True, capture_output=True, user=user, cwd="/")
        words = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-F"]
        with running([*words, "-c", "unix_socket_directories="], port, user):
            yield f"postgresql://{name}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)
