"""Widgets in a running notebook: the owner lets somebody in and cuts him off; a chat is Python's too."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from running_host import COMMAND, RunningHost

from browser.conftest import Open
from browser.lab import NotebookPage
from dpc_jupyter.backends.models import SMOLLM2
from dpc_jupyter.home import Home

LOAD = "%load_ext dpc_jupyter\nimport dpc_jupyter"
SHARE = "%dpc_start --share --listen 127.0.0.1 --port 0"
ADDRESS = "print(dpc_jupyter.current_node().status().uri)"


class Friend:
    """Somebody with a home of his own, in a process of his own."""

    def __init__(self, home: Home, uri: str) -> None:
        self.node_id = home.load_identity().node_id
        self._uri = uri
        self._environment = {**os.environ, "DPC_HOME": str(home.path)}

    def asks(self, *options: str) -> subprocess.Popen[str]:
        command = [*COMMAND, "ask", "--host", self._uri, "--model", SMOLLM2.name, *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self._environment, stdout=pipe, stderr=pipe, text=True)

    def joins(self, line: str) -> tuple[int, str]:
        done = subprocess.run(
            [*COMMAND, "join", line], env=self._environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    def asks_and_waits(self) -> tuple[int, str]:
        process = self.asks("--max-tokens", "5", "Hi")
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err


@pytest.fixture
def shared(open_notebook: Open) -> NotebookPage:
    """A notebook that shares, with the editor below its fourth cell."""
    notebook = open_notebook(LOAD, SHARE, ADDRESS, "dpc_jupyter.FirewallEditor()")
    for index in range(4):
        notebook.run(index)
    return notebook


@pytest.fixture
def friend(shared: NotebookPage, tmp_path: Path) -> Friend:
    return Friend(Home(tmp_path / "friend"), shared.output(2).inner_text().strip())


@pytest.fixture
def editor(page: Page, shared: NotebookPage, asker: Home) -> Iterator[Locator]:
    """The firewall editor; the file is as it was when the test ends."""
    before = asker.access_path.read_bytes() if asker.access_path.exists() else None
    yield page.locator(".dpc-firewall-editor")
    if before is None:
        asker.access_path.unlink(missing_ok=True)
    else:
        asker.access_path.write_bytes(before)


def test_one_click_lets_a_refused_peer_in_and_taking_it_out_cuts_his_running_answer(
    editor: Locator, friend: Friend
) -> None:
    code, said = friend.asks_and_waits()
    assert (code != 0 and "not let" in said.lower()) or "denied" in said.lower()
    asked = editor.locator(".dpc-fw-pending", has_text=friend.node_id[-4:])
    expect(asked).to_be_visible()
    asked.get_by_role("button", name="Allow for a week").click()
    expect(asked).to_have_count(0)
    assert friend.asks_and_waits()[0] == 0
    with friend.asks("--max-tokens", "4000", "Tell me a very long story of a fox and a hen.") as running:
        assert running.stdout is not None and running.stdout.read(20)
        row = editor.locator(".dpc-fw-row", has_text=friend.node_id[-4:])
        row.get_by_role("button", name="Edit").click()
        editor.get_by_role("button", name="Remove").click()
        editor.get_by_role("button", name="Review").click()
        expect(editor.locator(".dpc-fw-lines")).to_contain_text(friend.node_id)
        editor.get_by_role("button", name="Save").click()
        out, err = running.communicate(timeout=30)
        assert running.returncode != 0 and "withdrawn" in out + err
    expect(editor.locator(".dpc-fw-row", has_text=friend.node_id[-4:])).to_have_count(0)


def test_an_invitation_made_in_the_form_shows_its_line_and_one_that_is_revoked_lets_nobody_in(
    editor: Locator, friend: Friend
) -> None:
    editor.get_by_role("button", name="Invite somebody").click()
    editor.get_by_label("Your name for who joins").fill("erin")
    editor.get_by_label("Models, commas between").fill(SMOLLM2.name)
    editor.get_by_role("button", name="Make the line").click()
    line = editor.get_by_label("The line to send")
    expect(line).to_have_value(re.compile(r"dpc-invite:\S+"))
    expect(editor.locator(".dpc-fw-made")).to_contain_text("It works once, until")
    typed = line.input_value()
    editor.get_by_role("button", name="Put away").click()
    expect(line).to_have_count(0)
    invited = editor.locator(".dpc-fw-pending", has_text="Invited: erin")
    expect(invited).to_contain_text(SMOLLM2.name)
    invited.get_by_role("button", name="Revoke").click()
    expect(editor).to_contain_text("The invitation for erin is taken back.")
    expect(invited).to_have_count(0)
    code, said = friend.joins(typed)
    assert code != 0 and "This invitation cannot be used" in said
    expect(editor.locator(".dpc-fw-row", has_text="erin")).to_have_count(0)


def test_an_edit_by_hand_appears_and_an_invalid_value_is_refused_in_place(
    editor: Locator, friend: Friend, asker: Home
) -> None:
    asker.edit_access(lambda document: {**document, "node_groups": {"lab": [friend.node_id]}})
    row = editor.locator(".dpc-fw-row", has_text="lab").first
    expect(row).to_be_visible()
    row.get_by_role("button", name="Edit").click()
    running = editor.get_by_label("At once")
    running.fill("5000")
    running.press("Tab")
    expect(editor.get_by_role("alert").first).to_contain_text("whole number from 1 to 1,024")
    assert "groups" not in asker.access_document()


@pytest.mark.parametrize("killed", [False, True])
def test_the_widgets_of_a_kernel_that_has_ended_say_what_to_do(open_notebook: Open, page: Page, killed: bool) -> None:
    kinds = ("HostPicker", "NodePanel", "FirewallEditor", "Chat")
    notebook = open_notebook(LOAD, *(f"dpc_jupyter.{kind}()" for kind in kinds), "import os; os.kill(os.getpid(), 9)")
    for index in range(5):
        notebook.run(index)
    chat = page.locator(".dpc-chat")
    linked = page.locator(".dpc-lab-host", has_text="▾")  # Lab throws where a kernel ends that is making a subshell
    expect(linked).to_be_visible()
    if killed:  # Lab's widget manager does not see it; the next message does
        notebook.start(5)
        page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(page.locator(".dpc-lab-host").first).to_contain_text("Load DPC")
    else:
        notebook.restart()
        for widget in (".dpc-host-picker", ".dpc-node-panel", ".dpc-firewall-editor", ".dpc-chat"):
            expect(page.locator(widget)).to_contain_text("The kernel was restarted, and what you see is old: run")
    chat.get_by_role("textbox").fill("Anybody there?")
    chat.get_by_role("textbox").press("Enter")
    expect(chat.get_by_role("alert")).to_have_text("The kernel was restarted: run this cell again.")
    expect(chat.get_by_role("status")).to_contain_text("run %load_ext dpc_jupyter in a cell, then this one again")
    notebook.run(0)
    notebook.run(4)
    expect(page.locator(".dpc-chat")).to_contain_text("Nothing asked yet.")
    expect(linked).to_be_visible()


def test_a_chat_streams_is_stopped_and_its_transcript_is_python(
    open_notebook: Open, page: Page, anna: RunningHost
) -> None:
    notebook = open_notebook(
        LOAD,
        f"%dpc_connect {anna.uri} --name anna\n%dpc_host anna",
        "chat = dpc_jupyter.Chat()\nchat",
        "chat.transcript",
    )
    for index in range(3):
        notebook.run(index)
    chat = page.locator(".dpc-chat")
    ask = chat.get_by_role("textbox")
    ask.fill("Say one word.")
    ask.press("Enter")
    # A small model may write up to its limit, whatever it is asked: a minute on a busy machine.
    expect(chat.locator(".dpc-chat-foot")).to_contain_text("first after", timeout=180_000)
    ask.fill("Tell me a very long story of a fox and a hen.")
    ask.press("Enter")
    expect(chat).to_contain_text("tokens/s")
    chat.get_by_role("button", name="Stop").click()
    expect(chat).to_contain_text("stopped early")
    turns = notebook.run(3)
    assert turns.count("'role': 'user'") == turns.count("'role': 'assistant'") == 2, "the one that was stopped too"
