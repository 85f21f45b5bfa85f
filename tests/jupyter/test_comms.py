"""The two comms of the Lab extension, and a widget's own, through a real kernel."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter import firewall
from dpc_jupyter.home import Home
from dpc_jupyter.jupyter.faces import EVENTS, RPC
from jupyter.conftest import StubHost
from jupyter.kernel import Kernel, Message

NODE = "dpc-node-" + "d" * 32


class Page:
    """A page of JupyterLab: one comm to hear by and one to call by, each with a subshell of its own."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.client, self.events, self.rpc = (uuid.uuid4().hex for _ in range(3))
        self.shells = {self.events: kernel.subshell(), self.rpc: kernel.subshell()}
        self.heard: list[Message] = []
        self.state: Message = {}
        self.closed: list[str] = []
        for comm, target in ((self.events, EVENTS), (self.rpc, RPC)):
            content = {"comm_id": comm, "target_name": target, "data": {"client": self.client}}
            kernel.send("comm_open", content, self.shells[comm])

    def until(self, happened: Callable[[], object]) -> None:
        """Take what comes until this is so; the kernel's own patience ends it."""
        while not happened():
            message = self.kernel.next()
            content = message["content"]
            if message["msg_type"] == "comm_close":
                self.closed.append(content["comm_id"])
            if message["msg_type"] == "comm_msg" and content["comm_id"] == self.events:
                self.heard.append(content["data"])
                self.state = {**self.state, **content["data"].get("state", {})}

    def call(self, method: str, **params: Any) -> Any:
        number = uuid.uuid4().hex
        data = {"client": self.client, "id": number, "method": method, "params": params}
        self.kernel.send("comm_msg", {"comm_id": self.rpc, "data": data}, self.shells[self.rpc])
        self.until(lambda: [each for each in self.heard if each.get("reply") == number])
        return self.heard[-1].get("result", self.heard[-1].get("error"))


@pytest.fixture
def page(kernel: Kernel) -> Page:
    return Page(kernel)


def runs_until(kernel: Kernel, sign: Path) -> str:
    """Start a cell that blocks the kernel until a file is there."""
    code = f"import os, time\nwhile not os.path.exists({str(sign)!r}):\n    time.sleep(0.01)"
    return kernel.send("execute_request", {"code": code, "silent": False, "store_history": False})


def test_a_page_is_told_and_heard_while_a_cell_runs(kernel: Kernel, tmp_path: Path, asker_home: Home) -> None:
    cell = runs_until(kernel, tmp_path / "enough")
    page = Page(kernel)
    page.until(lambda: page.state)
    assert not page.state["node"]["running"]
    assert page.call("start") is None
    assert page.state["node"]["running"], "the state comes before the answer"
    asker_home.edit_access(lambda document: firewall.allow(document, NODE, name="dave"))
    page.until(lambda: page.state["access"]["people"])
    assert page.call("choose", host="local", model="x") == {"id": "local", "name": "this machine", "model": "x"}
    ended: list[Message] = []
    (tmp_path / "enough").touch()
    while not ended:
        message = kernel.next()
        if message["parent_header"].get("msg_id") == cell and message["content"].get("execution_state") == "idle":
            ended.append(message)
    assert kernel.ok("%dpc_host").stdout == "This notebook asks this machine for x.\n"


def test_the_choice_in_a_cell_is_shown_on_the_page(page: Page, kernel: Kernel, stub_host: StubHost) -> None:
    page.until(lambda: page.state)
    kernel.ok(f"%dpc_connect {stub_host.uri} --name anna")
    assert kernel.ok("%dpc_host anna stub-2").stdout == "This notebook asks anna for stub-2.\n"
    assert page.call("state") is None
    page.until(lambda: page.state["chosen"]["model"] == "stub-2")
    assert page.state["chosen"]["name"] == "anna"
    kernel.ok("%dpc_ask Hello")
    assert stub_host.engine.seen[-1].model == "stub-2"
    assert page.call("choose", host="anna", model="stub-1")["model"] == "stub-1"
    kernel.ok("%dpc_ask Hello")
    assert stub_host.engine.seen[-1].model == "stub-1"
    assert page.call("choose", host="anna", model="stub-2")["model"] == "stub-2"
    kernel.ok("%dpc_ask -H anna Hello")
    assert stub_host.engine.seen[-1].model == "stub-1", "the first one: no model is taken over to a host that is named"


def test_a_page_that_closes_and_an_extension_that_is_unloaded_leave_nothing(page: Page, kernel: Kernel) -> None:
    page.until(lambda: page.state)
    faces = "[t.name for t in __import__('threading').enumerate() if t.name == 'dpc-faces']"
    assert kernel.value(faces) == "['dpc-faces']"
    code = "%unload_ext dpc_jupyter"
    kernel.send("execute_request", {"code": code, "silent": False, "store_history": False})
    page.until(lambda: page.events in page.closed)
    kernel.ok(
        f"import threading\nfor t in threading.enumerate():\n    t.name == 'dpc-faces' and t.join(10)\nprint({faces})"
    )
    assert kernel.value(faces) == "[]"
    late = Page(kernel)
    late.until(lambda: {late.events, late.rpc} <= set(late.closed))
    kernel.ok("%load_ext dpc_jupyter")
    again = Page(kernel)
    again.until(lambda: again.state)
    kernel.send("comm_close", {"comm_id": again.events, "data": {}}, again.shells[again.events])
    gone = "__import__('dpc_jupyter.jupyter.extension').jupyter.extension.current_faces().listeners._faces"
    kernel.ok(f"import time\nwhile {gone}:\n    time.sleep(0.01)")


def test_a_kernel_that_has_not_loaded_us_closes_the_comms_at_once(environment: dict[str, str]) -> None:
    kernel = Kernel(environment)
    try:
        kernel.ok("%unload_ext dpc_jupyter")
        page = Page(kernel)
        page.until(lambda: {page.events, page.rpc} <= set(page.closed))
        assert page.heard == []
    finally:
        kernel.close()


@pytest.mark.parametrize("kind", ["HostPicker", "NodePanel", "FirewallEditor", "Chat"])
def test_a_widget_is_a_face_by_its_own_comm(kernel: Kernel, kind: str) -> None:
    kernel.ok(f"from dpc_jupyter import {kind}\nface = {kind}()")
    model = kernel.value("face.model_id")
    assert kernel.value("face.client") == model
    heard: list[Message] = []
    data = {"client": model, "id": "1", "method": "choose", "params": {"host": "local", "model": "y"}}
    content = {"comm_id": model, "data": {"method": "custom", "content": data}}
    kernel.send("comm_msg", content)
    while not [each for each in heard if each.get("reply") == "1"]:
        message = kernel.next()
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == model:
            heard.append(message["content"]["data"].get("content", {}))
    assert heard[-1]["result"]["model"] == "y"
    state = [each["state"]["chosen"] for each in heard if "chosen" in each.get("state", {})]
    assert state[-1]["model"] == "y"
    assert "import" not in [line.split(" ")[0] for line in kernel.value("face._esm").splitlines()]
    kernel.ok("face.close()")
    gone = "__import__('dpc_jupyter.jupyter.extension').jupyter.extension.current_faces().listeners._faces"
    assert json.loads(kernel.value(f"len({gone})")) == 0


def test_the_chat_widget_gives_its_transcript_to_python(kernel: Kernel, stub_host: StubHost) -> None:
    kernel.ok(f"%dpc_connect {stub_host.uri} --name anna")
    kernel.ok("from dpc_jupyter import Chat\nchat = Chat()")
    model = kernel.value("chat.model_id")
    params = {"chat": model, "prompt": "Hello", "host": "anna", "model": None}
    data = {"client": model, "id": "1", "method": "chat_ask", "params": params}
    kernel.send("comm_msg", {"comm_id": model, "data": {"method": "custom", "content": data}})
    kernel.ok("import time\nwhile not chat.answers:\n    time.sleep(0.01)")
    assert kernel.value("[turn['role'] for turn in chat.transcript]") == "['user', 'assistant']"
    assert kernel.value("chat.answers[0].host_name") == "anna"


def test_a_chat_widget_that_is_closed_makes_room_for_another_and_keeps_what_was_said(kernel: Kernel) -> None:
    kernel.ok("from dpc_jupyter import Chat\nchats = [Chat() for _ in range(64)]")
    assert "close one (chat.close())" in str(kernel.run("Chat()").error)
    kernel.ok("for chat in chats:\n    chat.close()\n    chat.close()")
    kernel.ok("more = [Chat() for _ in range(64)]")
    assert kernel.value("chats[0].transcript") == "[]"


def test_a_widget_without_the_extension_says_what_to_run(kernel: Kernel) -> None:
    kernel.ok("%unload_ext dpc_jupyter")
    kernel.ok("from dpc_jupyter import Chat, NodePanel\nimport gc, sys\nunheard = []")
    kernel.ok("sys.unraisablehook = lambda unraisable: unheard.append(str(unraisable))")
    for kind in ("NodePanel", "Chat"):
        ran = kernel.run(f"{kind}()")
        assert ran.error is not None
        assert ran.error["evalue"] == "This notebook has no node: run %load_ext dpc_jupyter first."
    kernel.run("sys.last_traceback = sys.last_value = sys.last_exc = None\n1/0")
    assert kernel.value("gc.collect() and unheard") == "[]", "one that was never made whole goes quietly"
