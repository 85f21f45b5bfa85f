"""A face as a page would show it: all that came down to it, and calls that go up."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

from node.waiting import PATIENCE_S

from dpc_jupyter.jupyter.faces.listeners import Listeners

Message = dict[str, Any]


class Refused(Exception):
    """The sentence of a call that failed."""


class Screen:
    """One face."""

    def __init__(self, listeners: Listeners, client: str = "") -> None:
        self.client = client or uuid.uuid4().hex
        self.heard: list[Message] = []
        self.state: Message = {}
        self._listeners = listeners
        self._news = threading.Condition()
        listeners.attach(self.client, self.receive)

    def receive(self, message: Message) -> None:
        message = json.loads(json.dumps(message, allow_nan=False))  # as a comm does
        with self._news:
            self.heard.append(message)
            self.state = {**self.state, **message.get("state", {})}
            self._news.notify_all()

    def until(self, happened: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(happened, PATIENCE_S), self.state

    def shows(self, section: str, **facts: Any) -> Message:
        """Wait until a section has these facts."""
        self.until(lambda: facts.items() <= self.state.get(section, {}).items())
        shown: Message = self.state[section]
        return shown

    def host(self, node_id: str, **facts: Any) -> Message:
        """Wait until a host has these facts."""
        found: list[Message] = []

        def shown() -> bool:
            found[:] = [host for host in self.state.get("hosts", []) if host["id"] == node_id]
            return bool(found) and facts.items() <= found[0].items()

        self.until(shown)
        return found[0]

    def ask(self, method: Any, params: Any = None) -> str:
        """Send a call up, and go on."""
        number = uuid.uuid4().hex
        self._listeners.take({"client": self.client, "id": number, "method": method, "params": params})
        return number

    def reply(self, number: str) -> Message:
        self.until(lambda: [each for each in self.heard if each.get("reply") == number])
        (reply,) = [each for each in self.heard if each.get("reply") == number]
        return reply

    def call(self, method: str, **params: Any) -> Any:
        """Call, and wait for the result."""
        reply = self.reply(self.ask(method, params))
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["result"]
