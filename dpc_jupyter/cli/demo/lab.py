"""The demo in JupyterLab, beside two hosts."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from dpc_jupyter.cli.console import say
from dpc_jupyter.cli.demo.notebook import NOTEBOOK, notebook_path
from dpc_jupyter.cli.demo.place import Place, end
from dpc_jupyter.errors import ConfigError


def open_lab(place: Place, addresses: dict[str, str]) -> None:
    """Run JupyterLab in the demo's folder until it ends or Ctrl-C comes."""
    folder = place.folder / "lab"
    folder.mkdir(exist_ok=True)
    for notebook in notebook_path().parent.glob("*.ipynb"):
        if not (folder / notebook.name).exists():  # what was written into one stays
            shutil.copy(notebook, folder)
    settings = Path(place.asker_environment["JUPYTER_CONFIG_DIR"]) / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    # Whether the user wants JupyterLab's news is not this demo's question to ask.
    settings.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={folder}", NOTEBOOK]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    token = secrets.token_urlsafe(24).replace("-", "").replace("_", "")
    environment = {**os.environ, **place.asker_environment, **addresses, "JUPYTER_TOKEN": token}
    say(f"JupyterLab: http://127.0.0.1:{port}/lab/tree/{NOTEBOOK}?token={token}")
    say("Ctrl-C ends it and the hosts.")
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as lab:
        try:
            if lab.wait() != 0:
                raise ConfigError("JupyterLab ended early. If it is missing: pip install jupyterlab")
        except KeyboardInterrupt:
            say("Stopping.")
        finally:
            end(lab)
