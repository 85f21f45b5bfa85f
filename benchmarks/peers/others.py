"""The ways by which labs reach an engine today: nginx with TLS, ``ssh -L``, and LiteLLM's proxy. Loopback alone."""

from __future__ import annotations

import getpass
import json
import os
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import install
from benchmarks.peers.http import HttpAsker
from benchmarks.processes import PeerUnavailableError, Processes, free_port
from benchmarks.stub import MODEL

_NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000;
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 512; keepalive_requests 100000; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_protocols TLSv1.3;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
_SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding local
"""
_LITELLM = {
    "model_list": [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": "", "api_key": "none"},
        }
    ],
    "general_settings": {"master_key": "sk-benchmark"},
    "litellm_settings": {"telemetry": False, "drop_params": False},
}


def nginx(processes: Processes, engine: int, identity: Path, console: Console | None) -> HttpAsker:
    """The stub behind nginx: TLS 1.3 with a node's own RSA-2048 certificate, ``proxy_buffering off``."""
    path = install.program("nginx", "nginx-light", console)
    port, config = free_port(), processes.folder / "nginx.conf"
    certificate, key = identity / "node.crt", identity / "node.key"
    config.write_text(
        _NGINX.format(folder=processes.folder, engine=engine, port=port, certificate=certificate, key=key)
    )
    argv = [path, "-p", str(processes.folder), "-c", str(config), "-e", "stderr"]
    processes.program(argv, port=port, name="nginx", wait_s=5)
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return HttpAsker("nginx TLS", f"https://127.0.0.1:{port}/v1", context)


def ssh(processes: Processes, engine: int, console: Console | None) -> HttpAsker:
    """The stub through ``ssh -L``: a server with keys of its own; no file of the user's is read or written."""
    server = install.program("sshd", "openssh-server", console)
    client = install.program("ssh", "openssh-client", console)
    keygen = install.program("ssh-keygen", "openssh-client", console)
    folder, port, forwarded = processes.folder / "ssh", free_port(), free_port()
    folder.mkdir()
    for name in ("host", "user"):
        _run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)])
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's empty root; a package's start script makes it
    (folder / "sshd.conf").write_text(_SSHD.format(port=port, folder=folder))
    processes.program([server, "-D", "-e", "-f", str(folder / "sshd.conf")], port=port, name="sshd", wait_s=5)
    host_key = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    options = {
        "UserKnownHostsFile": folder / "known_hosts",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
    }
    argv = [client, "-F", "none", "-N", "-i", str(folder / "user"), "-p", str(port)]
    argv += [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    argv += ["-L", f"127.0.0.1:{forwarded}:127.0.0.1:{engine}", f"{getpass.getuser()}@127.0.0.1"]
    processes.program(argv, port=forwarded, name="ssh", wait_s=10)
    return HttpAsker("ssh -L", f"http://127.0.0.1:{forwarded}/v1")


def litellm(processes: Processes, engine: int, console: Console | None) -> HttpAsker:
    """The stub behind LiteLLM's proxy, one worker, no database."""
    path = install.litellm(console)
    port, config = free_port(), processes.folder / "litellm.yaml"
    _LITELLM["model_list"][0]["litellm_params"]["api_base"] = f"http://127.0.0.1:{engine}/v1"  # type: ignore[index]
    config.write_text(json.dumps(_LITELLM))  # JSON is YAML
    argv = [path, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    processes.program(argv, port=port, name="litellm", wait_s=90, env=env)
    return HttpAsker("LiteLLM", f"http://127.0.0.1:{port}/v1", key="sk-benchmark")


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerUnavailableError(f"{argv[0]} failed: {done.stderr.strip()}")
