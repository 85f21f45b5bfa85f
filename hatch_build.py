"""Builds the JupyterLab extension with npm where its sources are newer, and packs it where Jupyter looks for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSTALLED = "share/jupyter/labextensions/dpc-jupyter"
NO_NPM = "The JupyterLab extension is built with npm: install Node.js 20 or newer (https://nodejs.org) and try again."


class LabExtension(BuildHookInterface):  # type: ignore[type-arg]
    """For wheels, sdists and editable installs alike. An sdist brings what was built, and needs no npm."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say where the files go."""
        root = Path(self.root)
        source, built = root / "labextension", root / "dpc_jupyter" / "labextension"
        if not (root / "PKG-INFO").exists() and _newest(_sources(root)) > _newest([built / "package.json"]):
            npm = shutil.which("npm")
            if npm is not None:
                _build(npm, source)
            elif version == "editable":
                self.app.display_warning(NO_NPM)  # the magics and the terminal do without it
            else:
                raise SystemExit(NO_NPM)
        if self.target_name == "wheel" and built.exists():
            build_data["shared_data"] |= {
                str(built): INSTALLED,
                str(source / "install.json"): f"{INSTALLED}/install.json",
            }


def _build(npm: str, source: Path) -> None:
    if _newest([source / "package-lock.json"]) > _newest([source / "node_modules" / ".package-lock.json"]):
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=source, check=True)
    subprocess.run([npm, "run", "build"], cwd=source, check=True)


def _sources(root: Path) -> Iterable[Path]:
    source = root / "labextension"
    yield from source.glob("*.json")
    for folder in ("src", "schema", "style"):
        yield from (source / folder).rglob("*")
    views = root / "dpc_jupyter" / "jupyter" / "widgets"
    yield from (*views.glob("*.js"), *views.glob("*.css"))


def _newest(files: Iterable[Path]) -> float:
    return max((file.stat().st_mtime for file in files if file.exists()), default=0)
