"""Processes that a run starts. All of them end with it, however it ends, and nothing else is ever ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_END_S = 5.0


class PeerUnavailableError(Exception):
    """A peer cannot be run here; the text says why, and what would help."""


class Child:
    """One of our own servers: says what it is on standard output, as JSON lines, and ends when standard input does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def read(self) -> Any:
        """The next thing that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerUnavailableError(f"process {self.pid} ended with {self._process.wait(_END_S)}")
        return json.loads(line)

    def ask(self, words: object) -> Any:
        """Tell it something, and read what it says to that."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self.read()


class Processes:
    """Starts processes, and ends them when the ``with`` block is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[subprocess.Popen[str]] = []

    def module(self, name: str, *arguments: str) -> Child:
        """Run one of the benchmark's own modules; it must say something first, kept for `Child.read`."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        self._all.append(process)
        return Child(process)

    def program(self, argv: Sequence[str], *, port: int, name: str, wait_s: float, env: Mapping[str, str] = {}) -> int:
        """Run somebody's server until it listens on `port`; returns its process id.

        Raises
        ------
        PeerUnavailableError
            It ended, or does not listen; the text ends with its last words.
        """
        log = self.folder / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.folder,
                env={**os.environ, **env},
            )
        self._all.append(process)
        until = time.monotonic() + wait_s
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                words = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise PeerUnavailableError(f"{name} did not start: {' '.join(words) or f'silent for {wait_s:g} s'}")
            time.sleep(0.05)
        return process.pid

    def end(self, pid: int) -> None:
        """End one of them now."""
        for process in [each for each in self._all if each.pid == pid]:
            _end([process])
            self._all.remove(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        _end(self._all)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        process.terminate()
    for process in processes:
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
