"""STUN and TURN, by a real coturn on this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter.errors import ConnectError
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links.address import machine_addresses
from dpc_jupyter.transports import sdp, webrtc
from dpc_jupyter.transports.ice import IceConfig, TurnServer
from dpc_jupyter.transports.webrtc import Payload
from transports.nodes import Ear, until
from transports.signalling import answering, free_port, needs_an_address, streams

pytestmark = needs_an_address
USER, PASSWORD = "lab", "a-test-password"


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A TURN server that is asked on loopback and relays on this machine's own address; its port."""
    if (binary := shutil.which("turnserver")) is None:
        pytest.skip("STUN and TURN were NOT tested: no coturn here")
    folder: Path = tmp_path_factory.mktemp("coturn")
    port = free_port()
    options = [
        *("-n", "--listening-ip=127.0.0.1", f"--listening-port={port}", f"--relay-ip={machine_addresses()[0]}"),
        *("--lt-cred-mech", f"--user={USER}:{PASSWORD}", "--realm=lab.example.org", "--no-tls", "--no-dtls"),
        *("--no-cli", "--log-file=stdout", f"--userdb={folder / 'turndb'}", f"--pidfile={folder / 'pid'}"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([binary, *options], stdout=log, stderr=log, cwd=folder)
    try:
        ends = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < ends, (folder / "log").read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def kinds(payload: Payload) -> set[str]:
    return {each.type for each in sdp.read(payload[payload["type"]]["sdp"]).candidates}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_that_use_the_relay_alone_exchange_bytes_and_name_no_address_of_their_own(
    transport: str, coturn: int, guest_id: Identity, host_id: Identity
) -> None:
    server = TurnServer(f"turn:127.0.0.1:{coturn}?transport={transport}", USER, PASSWORD)
    ice = IceConfig(turn=(server,), relay_only=True)
    async with answering(host_id, guest_id.node_id, ice) as (hub, accepted):
        dialler = await webrtc.dial(hub.signal, guest_id, host_id.node_id, ice, 20.0)
        await hub.settled()
        for payload in (*hub.offers, *hub.answers):
            assert kinds(payload) == {"relay"}
        ears = Ear(), Ear()
        dialler.attach(ears[0])
        accepted[0].attach(ears[1])
        dialler.write(b"x" * 300_000)
        accepted[0].write(b"y" * 300_000)
        await until(lambda: len(ears[0].heard) == len(ears[1].heard) == 300_000)
        dialler.close()
        await until(lambda: ears[0].ends and ears[1].ends)


async def test_stun_tells_an_address_and_a_direct_way_is_preferred_to_the_relay(
    coturn: int, guest_id: Identity, host_id: Identity
) -> None:
    url = f"127.0.0.1:{coturn}"
    ice = IceConfig(stun=(f"stun:{url}",), turn=(TurnServer(f"turn:{url}", USER, PASSWORD),))
    async with streams(guest_id, host_id, ice) as (dialler, _):
        connection: Any = dialler._connection
        pair = connection.sctp.transport.transport._connection._nominated[1]
        assert pair.local_candidate.type == "host"


async def test_a_wrong_password_is_named(coturn: int, guest_id: Identity, host_id: Identity) -> None:
    server = TurnServer(f"turn:127.0.0.1:{coturn}", USER, "wrong")

    async def signal(_: Payload) -> None:
        raise AssertionError("an offer without an address was sent")

    with pytest.raises(ConnectError, match=f"{server.url} gave no address"):
        await webrtc.dial(signal, guest_id, host_id.node_id, IceConfig(turn=(server,), relay_only=True), 20.0)


async def test_a_server_that_is_not_there_delays_and_does_not_prevent_a_direct_way(
    guest_id: Identity, host_id: Identity
) -> None:
    url = f"127.0.0.1:{free_port()}"
    ice = IceConfig(stun=(f"stun:{url}",), turn=(TurnServer(f"turn:{url}", USER, PASSWORD),))
    began = time.monotonic()
    async with streams(guest_id, host_id, ice):
        assert 3.5 < time.monotonic() - began < 9, "two seconds at each end"
