"""Nodes in processes of their own, ended by their pid."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
