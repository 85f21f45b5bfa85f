"""A node that speaks to a hub by hand: no part of `HubClient`, and hostile where a test wants it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection, connect

from dpc_jupyter.identity import Identity

DOMAIN = b"dpc-hub1-login\0"


def offer(words: str = "v=0") -> dict[str, Any]:
    """As the parent's client makes it."""
    return {"type": "offer", "offer": {"type": "offer", "sdp": words}}


def answer(words: str = "v=0") -> dict[str, Any]:
    return {"type": "answer", "answer": {"type": "answer", "sdp": words}}


def to_sign(*fields: str) -> bytes:
    """Origin, node id, nonce; written down here again, as the golden copy."""
    return DOMAIN + b"".join(struct.pack(">I", len(field.encode())) + field.encode() for field in fields)


@dataclass
class RawNode:
    """An identity and a hub's URL."""

    url: str
    identity: Identity
    verify: bool = True

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, trust_env=False, timeout=20)

    def nonce(self, node_id: str = "") -> str:
        response = self.post("/login/challenge", {"node_id": node_id or self.identity.node_id})
        assert response.status_code == 200, response.text
        return str(response.json()["nonce"])

    def proof(self, nonce: str, origin: str = "", signer: Identity | None = None, node_id: str = "") -> dict[str, str]:
        node_id = node_id or self.identity.node_id
        signature = (signer or self.identity).sign(to_sign(origin or self.url, node_id, nonce))
        return {
            "node_id": node_id,
            "cert_pem": self.identity.cert_pem.decode(),
            "nonce": nonce,
            "signature": base64.b64encode(signature).decode(),
        }

    def token(self) -> str:
        response = self.post("/login", self.proof(self.nonce()))
        assert response.status_code == 200, response.text
        return str(response.json()["token"])

    def call(self, method: str, path: str, token: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, self.url + path, headers=headers, trust_env=False, timeout=20, **more)

    async def open(
        self,
        token: str = "",
        *,
        in_query: bool = False,
        session: str = "",
        receive_buffer_bytes: int = 0,
        **query: str,
    ) -> Socket:
        sock = socket.socket()
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setblocking(False)
        where = httpx.URL(self.url)
        await asyncio.get_running_loop().sock_connect(sock, (where.host, where.port))
        token = token or await asyncio.to_thread(self.token)
        terms = dict(query) | ({"session": session} if session else {}) | ({"token": token} if in_query else {})
        opened = await connect(
            f"{self.url.replace('http', 'ws', 1)}/ws/signal?{httpx.QueryParams(terms)}",
            additional_headers={} if in_query else {"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None,
            ping_interval=None,
            max_queue=None,
            sock=sock,
        )
        return Socket(opened)


@dataclass
class Socket:
    """An open ``/ws/signal``."""

    socket: ClientConnection

    async def say(self, message: object) -> None:
        await self.socket.send(message if isinstance(message, str) else json.dumps(message))

    async def call(self, target: str, payload: object, **more: object) -> None:
        await self.say({"type": "signal", "target_node_id": target, "payload": payload, **more})

    async def heard(self, within_s: float = 20.0) -> Any:
        return json.loads(await asyncio.wait_for(self.socket.recv(), within_s))

    async def silent(self, for_s: float = 0.3) -> bool:
        try:
            await asyncio.wait_for(self.socket.recv(), for_s)
        except TimeoutError:
            return True
        return False

    async def close_code(self, within_s: float = 20.0) -> int | None:
        """What the hub ends it with."""
        await asyncio.wait_for(self.socket.wait_closed(), within_s)
        return self.socket.close_code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()
