"""A real kernel in a process of its own, and what a frontend would have on its screen."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
from jupyter_client.manager import KernelManager

LIMIT_S = 60.0
Message = dict[str, Any]


@dataclass
class Ran:
    """One cell as a frontend shows it: a display that is updated is one output, as it ended."""

    status: str = ""
    stdout: str = ""
    displays: dict[str, Message] = field(default_factory=dict)
    drawn: list[Message] = field(default_factory=list)
    error: Message | None = None
    value: str | None = None

    def take(self, message: Message) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            self.stdout += content["text"]
        elif kind in ("display_data", "update_display_data"):
            key = content.get("transient", {}).get("display_id") or str(len(self.displays))
            self.displays[key] = content
            self.drawn.append(content)
        elif kind == "execute_result":
            self.value = content["data"]["text/plain"]
        elif kind == "error":
            self.error = content

    @property
    def shown(self) -> Message:
        """The last output's data."""
        data: Message = list(self.displays.values())[-1]["data"]
        return data

    @property
    def text(self) -> str:
        return str(self.shown["text/plain"])

    @property
    def facts(self) -> Message:
        facts: Message = list(self.displays.values())[-1]["metadata"]["dpc"]
        return facts

    @property
    def sentence(self) -> str:
        """The one line of a failed cell."""
        assert self.error is not None, self
        assert len(self.error["traceback"]) == 1, self.error
        (line,) = self.error["traceback"]
        assert "\n" not in line and line.startswith("\x1b[31m") and line.endswith("\x1b[0m"), line
        return str(line.removeprefix("\x1b[31m").removesuffix("\x1b[0m"))


class Kernel:
    """Runs cells."""

    def __init__(self, environment: dict[str, str]) -> None:
        # Not TCP, whose ports are chosen free and taken later: another program may come between.
        self._sockets = tempfile.TemporaryDirectory()
        self._manager = KernelManager(transport="ipc", ip=f"{self._sockets.name}/kernel")
        self._manager.start_kernel(env=environment, extra_arguments=["--IPKernelApp.log_level=40"])
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=LIMIT_S)
        self.pid = int(self.value("__import__('os').getpid()"))
        bare = psutil.Process(self.pid).memory_info().rss
        self.loading_said = self.ok("%load_ext dpc_jupyter").stdout
        self.loaded_bytes = psutil.Process(self.pid).memory_info().rss - bare

    def run(self, code: str, *, interrupt_when: Callable[[Ran], bool] | None = None) -> Ran:
        """Run a cell to its end; on the way press Stop once what is on the screen says so."""
        ran = Ran()
        asked = self._client.execute(code, allow_stdin=False)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            message = self._client.get_iopub_msg(timeout=LIMIT_S)
            if message["parent_header"].get("msg_id") != asked:
                continue
            ran.take(message)
            if interrupt_when is not None and interrupt_when(ran):
                interrupt_when = None
                self._manager.interrupt_kernel()
            if message["header"]["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        ran.status = self._reply(asked)["status"]
        return ran

    def ok(self, code: str) -> Ran:
        """Run a cell that must not fail."""
        ran = self.run(code)
        assert ran.status == "ok", ran.error
        return ran

    def value(self, expression: str) -> str:
        """What an expression prints as."""
        return self.ok(f"print({expression}, end='')").stdout

    def complete(self, code: str) -> list[str]:
        """What Tab offers at the end of this text, as whole words."""
        reply = self._reply(self._client.complete(code))
        head = code[: reply["cursor_start"]].rpartition(" ")[2]
        return [head + match for match in reply["matches"]]

    def subshell(self) -> str:
        """A subshell, as JupyterLab makes one for each comm that it opens."""
        message = self._client.session.msg("create_subshell_request")
        self._client.control_channel.send(message)
        while True:
            reply: Message = self._client.get_control_msg(timeout=LIMIT_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return str(reply["content"]["subshell_id"])

    def begin(self, code: str) -> None:
        """Start a cell, and do not wait."""
        self._client.execute(code, allow_stdin=False)

    def send(self, kind: str, content: Message, subshell: str | None = None) -> str:
        """Send a message on the shell channel; returns its id."""
        message = self._client.session.msg(kind, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def next(self) -> Message:
        """The next message that a frontend would see."""
        message: Message = self._client.get_iopub_msg(timeout=LIMIT_S)
        return message

    def _reply(self, asked: str) -> Message:
        while True:
            message: Message = self._client.get_shell_msg(timeout=LIMIT_S)
            if message["parent_header"].get("msg_id") == asked:
                content: Message = message["content"]
                return content

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self._manager.shutdown_kernel(now=True)
        self._client.stop_channels()
        self._manager.cleanup_resources()
        self._sockets.cleanup()

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=False)
        self._manager.cleanup_resources()
        self._sockets.cleanup()
