"""Gets the programs that stand beside ours, where that needs nobody's leave; else says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.processes import PeerUnavailableError

VENV = Path(__file__).parent.parent / ".cache" / "bench-venv"
_LIMIT_S = 300.0


def program(name: str, package: str, console: Console | None) -> str:
    """The path of a program, installed by apt-get when we may.

    We may as root of a container: where systemd runs, installing a server would also start it, and that is its
    owner's decision. Without `console` nothing is installed.

    Raises
    ------
    PeerUnavailableError
        It is not here.
    """
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if (found := shutil.which(name, path=search)) is None and console is not None and _may_install():
        console.print(f"installing {package} ...")
        apt = ["apt-get", "-qq", "-y", "--no-install-recommends"]
        if not _runs([*apt, "install", package]):
            _runs(["apt-get", "-qq", "update"])
            _runs([*apt, "install", package])
        found = shutil.which(name, path=search)
    if found is None:
        raise PeerUnavailableError(f"{name} is not installed here: apt-get install {package}")
    return found


def litellm(console: Console | None) -> str:
    """The LiteLLM proxy's path, in a virtual environment of its own under ``.cache``.

    Raises
    ------
    PeerUnavailableError
        It is not here, and could not be installed.
    """
    path = VENV / "bin" / "litellm"
    if path.exists():
        return str(path)
    if console is None:
        raise PeerUnavailableError("LiteLLM is not installed yet: a full run does it")
    console.print("installing LiteLLM's proxy into .cache/bench-venv ...")
    python, package = str(VENV / "bin" / "python"), "litellm[proxy]"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv:
        steps = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(VENV)],
            [uv, "pip", "install", "--quiet", "--python", python, package],
        ]
    else:
        steps = [[sys.executable, "-m", "venv", str(VENV)], [python, "-m", "pip", "install", "--quiet", package]]
    if not all(_runs(step) for step in steps) or not path.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        raise PeerUnavailableError(f"LiteLLM could not be installed (pip install '{package}')")
    return str(path)


def _may_install() -> bool:
    in_container = not Path("/run/systemd/system").exists()
    return in_container and os.geteuid() == 0 and shutil.which("apt-get") is not None


def _runs(argv: Sequence[str]) -> bool:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(argv, stdout=output, stderr=output, env=env, timeout=_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0
