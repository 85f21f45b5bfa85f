"""Nodes in processes of their own, ended by their pid."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpc_jupyter
from dpc_jupyter import firewall
from dpc_jupyter.home import Home

PATHS = (Path(dpc_jupyter.__file__).parents[1], Path(__file__).parents[1])


@dataclass(frozen=True)
class Headless:
    """A running `node.headless`."""

    process: subprocess.Popen[str]
    uri: str
    stderr: Path

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self.process.kill()
        self.process.wait(10)


def share_with(home: Home, *node_ids: str) -> None:
    """Let nodes in by the access file."""

    def change(document: firewall.Document) -> firewall.Document:
        for node_id in node_ids:
            document = firewall.allow(document, node_id)
        return firewall.set_enabled(document, True)

    home.edit_access(change)


@contextmanager
def headless(home: Home, *arguments: str) -> Iterator[Headless]:
    """Run one until the block ends."""
    environment = os.environ | {"DPC_HOME": str(home.path), "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
    stderr = home.path.with_name(f"{home.path.name}.stderr")
    with stderr.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "node.headless", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        uri = process.stdout.readline().strip()
        assert uri.startswith("dpc://"), stderr.read_text()
        yield Headless(process, uri, stderr)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


class Apart:
    """A `node.apart`, and what it has said."""

    def __init__(self, inside: tuple[str, ...], home: Path, *arguments: str) -> None:
        environment = os.environ | {"DPC_HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, PATHS))}
        self.stderr = home.with_name(f"{home.name}.stderr")
        with self.stderr.open("w") as errors:
            self.popen = subprocess.Popen(
                [*inside, sys.executable, "-m", "node.apart", *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._said.put(json.loads(line) | {"heard": time.monotonic()})

    def said(self, within_s: float = 30.0) -> dict[str, Any]:
        try:
            return self._said.get(timeout=within_s)
        except queue.Empty:
            raise AssertionError(f"nothing came within {within_s:g} s; {self.stderr.read_text()}") from None

    def ask(self) -> dict[str, Any]:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()
        return self.said()

    def until_piece(self, number: int, within_s: float = 30.0) -> dict[str, Any]:
        """Wait until so many pieces are there."""
        until = time.monotonic() + within_s
        while True:
            news = self.said(max(0.01, until - time.monotonic()))
            assert "end" not in news, news
            if (news["pieces"] or 0) >= number:
                return news

    def next_piece(self, since: float, within_s: float = 30.0) -> dict[str, Any]:
        """The first text that came after this moment."""
        until = time.monotonic() + within_s
        while (news := self.said(max(0.01, until - time.monotonic())))["heard"] < since or not news.get("pieces"):
            assert "end" not in news, news
        return news

    def end(self, within_s: float = 60.0) -> dict[str, Any]:
        until = time.monotonic() + within_s
        while "end" not in (news := self.said(max(0.01, until - time.monotonic()))):
            pass
        return news

    def gone(self) -> None:
        self.popen.kill()
        self.popen.wait(10)
        self._reader.join(10)
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            pipe.close()
