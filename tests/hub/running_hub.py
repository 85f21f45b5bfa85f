"""Hubs in processes of their own, as users run them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from hub.services import PATIENCE_S, free_port


@dataclass
class RunningHub:
    """``dpc-jupyter hub``, which can be killed and started again at the same address."""

    folder: Path
    database: str = ""
    redis: str = ""
    more: tuple[str, ...] = ()
    scheme: str = "http"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / f"hub-{self.port}.log").read_text()

    def launch(self) -> RunningHub:
        """Start, and do not wait."""
        self.folder.mkdir(exist_ok=True)
        words = ["--port", str(self.port), "--database", self.database or str(self.folder / "hub.sqlite3")]
        with (self.folder / f"hub-{self.port}.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dpc_jupyter.cli", "hub", *words, *self.more],
                env=os.environ | {"DPC_HOME": str(self.folder / "home"), "DPC_HUB_REDIS": self.redis},
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        return self

    def wait(self) -> RunningHub:
        """Until it serves."""
        assert self.process is not None
        began = time.monotonic()
        while True:
            assert self.process.poll() is None, self.log
            assert time.monotonic() - began < PATIENCE_S, self.log
            try:
                if httpx.get(f"{self.url}/healthz", verify=False, trust_env=False).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.05)

    def start(self) -> RunningHub:
        return self.launch().wait()

    def kill(self) -> None:
        """As ``kill -9`` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """As Ctrl-C does."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)

    def memory_bytes(self) -> int:
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def metric(self, name: str) -> float:
        """One line of /metrics."""
        lines = httpx.get(f"{self.url}/metrics", trust_env=False).text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))
