"""What widgets and the Lab extension are told, and what they may ask."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from node.stub import StubEngine
from node.waiting import until_in_thread

from dpc_jupyter import firewall
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import DpcError
from dpc_jupyter.home import Home
from dpc_jupyter.hub.client.adverts import FoundNode
from dpc_jupyter.identity import Identity
from dpc_jupyter.jupyter.faces import Faces, listeners, watch
from dpc_jupyter.jupyter.faces.listeners import Listeners
from dpc_jupyter.jupyter.faces.state import found_views, host_views, node_view, pending_views, request_views
from dpc_jupyter.jupyter.notebook import Notebook
from dpc_jupyter.node.reaching.ladder import Attempt
from dpc_jupyter.node.status import KnownPeer, NodeStatus, PeerStatus, RequestStatus
from dpc_jupyter.node.thread import BackgroundNode
from dpc_jupyter.protocol.messages import ProviderInfo
from jupyter.conftest import StubHost
from jupyter.screen import Message, Refused, Screen

ANNA, DAVE = "dpc-node-" + "a" * 32, "dpc-node-" + "d" * 32
HOSTILE = "\x1b]0;owned\x07<img src=x onerror=alert(1)>\u202egnp\n\u2028%dpc_stop dpc://evil"


# Who listens.


def test_a_face_gets_every_section_at_first_and_then_only_what_changes(screen: Screen, notebook: Notebook) -> None:
    sections = {"node", "hosts", "chosen", "requests", "rate", "today", "access", "pending", "invitations"}
    screen.until(lambda: screen.heard)
    assert screen.heard[0].keys() == {"state"} and screen.heard[0]["state"].keys() == sections
    notebook.choose("local", "stub-2")
    screen.shows("chosen", id="local", name="this machine", model="stub-2")
    assert [each["state"].keys() for each in screen.heard[1:]] == [{"chosen"}]


def test_a_face_that_asks_for_the_state_gets_all_of_it_again(screen: Screen) -> None:
    screen.until(lambda: screen.heard)
    assert screen.call("state") is None
    screen.until(lambda: sum("state" in each for each in screen.heard) == 2)
    assert screen.heard[-1]["state"].keys() == screen.heard[0]["state"].keys()


@pytest.mark.parametrize("runs", [False, True])
def test_the_answer_of_a_call_comes_after_the_state_that_it_has_made(
    screen: Screen, request: pytest.FixtureRequest, runs: bool
) -> None:
    if runs:
        request.getfixturevalue("node")
    for on in (True, False, True, False):
        screen.call("apply", edits=[{"kind": "sharing", "on": on}])
        assert screen.state["access"]["sharing"] is on


@pytest.mark.parametrize(
    ("method", "params", "sentence"),
    [
        ("nothing", {}, "There is no call 'nothing': reload the page, it is of another version."),
        (HOSTILE, {}, "There is no call"),
        ("call", {"method": "stop", "params": {}}, "There is no call 'call'"),
        ("_running", {}, "There is no call '_running'"),
        ("__init__", {}, "There is no call '__init__'"),
        (None, {}, "There is no call 'None'"),
        (["start"], {}, "There is no call"),
        ("choose", {}, "choose: Object missing required field `host`"),
        ("choose", None, "choose: Object missing required field `host`"),
        ("choose", ["anna"], "choose: Object missing required field `host`"),
        ("choose", {"host": 1}, "choose: Expected `str`, got `int` - at `$.host`"),
        ("share", {"on": "yes"}, "share: Expected `bool`"),
        ("share", {"on": True, "port": 1}, "share: Object contains unknown field `port`"),
        ("preview", {"edits": [{"kind": "person"}]}, "This edit is not understood: "),
        ("pause", {"on": True}, "No node runs: start it first."),
        ("find", {"words": "anna"}, "No node runs: start it first."),
        ("chat_ask", {"chat": "1", "prompt": " \n"}, "Nothing is asked: write something first."),
    ],
)
def test_a_call_that_cannot_be_is_refused_in_one_sentence(
    screen: Screen, method: Any, params: Any, sentence: str
) -> None:
    reply = screen.reply(screen.ask(method, params))
    assert reply["error"].startswith(sentence)
    assert reply["error"].isprintable() and "result" not in reply


def test_what_is_no_call_at_all_is_not_heard(screen: Screen, faces: Faces) -> None:
    strange: list[Any] = [None, [], {}, {"client": "nobody", "id": "1", "method": "start"}]
    for message in strange:
        faces.listeners.take(message)
    assert screen.call("usage", days=1)["rows"] == []
    assert not [each for each in screen.heard if each.get("reply") == "1"]


class SlowCalls:
    """A stub: it answers `slow` when it is let."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def call(self, method: str, params: Any) -> Any:
        if method == "slow":
            self.may_end.wait(10)
        if method == "wrong":
            raise ZeroDivisionError(HOSTILE)
        return method


class StubWatcher:
    """A stub: its state is what a test says, or raises."""

    def __init__(self) -> None:
        self.says: Message | Exception = {"chosen": 1}

    def state(self, *, fresh: bool = False) -> Message:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture
def slow() -> SlowCalls:
    return SlowCalls()


@pytest.fixture
def watcher() -> StubWatcher:
    return StubWatcher()


@pytest.fixture
def stub_listeners(slow: SlowCalls, watcher: StubWatcher) -> Iterator[Listeners]:
    made = Listeners(slow, watcher)  # type: ignore[arg-type]
    yield made
    slow.may_end.set()
    made.close()


def test_a_slow_call_holds_up_neither_another_nor_the_state(
    stub_listeners: Listeners, slow: SlowCalls, watcher: StubWatcher
) -> None:
    screen = Screen(stub_listeners)
    waiting = screen.ask("slow")
    assert screen.call("quick") == "quick"
    watcher.says = {"chosen": 2}
    screen.until(lambda: screen.state["chosen"] == 2)
    assert not [each for each in screen.heard if each.get("reply") == waiting]
    slow.may_end.set()
    assert screen.reply(waiting)["result"] == "slow"


def test_a_silent_face_gets_nothing_until_it_is_heard_again_and_then_everything(
    stub_listeners: Listeners, watcher: StubWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "SILENT_S", 0.2)
    screen = Screen(stub_listeners)
    until_in_thread(lambda: stub_listeners._thread is None)
    heard = len(screen.heard)
    watcher.says = {"chosen": 2, "node": 3}
    stub_listeners.tell({"chat": {}})
    stub_listeners.look()
    assert len(screen.heard) == heard
    assert stub_listeners._faces[screen.client].seen == {}
    assert screen.call("quick") == "quick"
    assert screen.state == {"chosen": 2, "node": 3}


def test_a_face_that_cannot_be_told_is_dropped_and_the_others_are_told(
    stub_listeners: Listeners, watcher: StubWatcher
) -> None:
    def gone(message: Message) -> None:
        raise OSError("the page is gone")

    stub_listeners.attach("gone", gone)
    screen = Screen(stub_listeners)
    watcher.says = {"chosen": 2}
    screen.until(lambda: screen.state.get("chosen") == 2)
    assert list(stub_listeners._faces) == [screen.client]


class Comm:
    """A stub of a comm: what is used of one."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, data: Any = None) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.sent.append("closed")  # type: ignore[arg-type]

    def on_msg(self, callback: Any) -> None:
        self.message = callback

    def on_close(self, callback: Any) -> None:
        self.closed = callback


def test_a_page_that_comes_back_stays_when_its_old_comm_closes_late(
    stub_listeners: Listeners, watcher: StubWatcher
) -> None:
    old, new, opening = Comm(), Comm(), {"content": {"data": {"client": "page"}}}
    stub_listeners.open_events(old, opening)
    stub_listeners.open_events(new, opening)
    old.closed({})
    watcher.says = {"chosen": 2}
    until_in_thread(lambda: {"state": {"chosen": 2}} in new.sent)
    new.closed({})
    assert not stub_listeners._faces


def test_no_more_faces_are_kept_than_pages_can_be_open(stub_listeners: Listeners) -> None:
    screens = [Screen(stub_listeners) for _ in range(listeners.FACES_LIMIT + 2)]
    assert list(stub_listeners._faces) == [screen.client for screen in screens[2:]]


def test_a_fault_in_a_call_is_told_without_its_words(
    stub_listeners: Listeners, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused, match=r"^That failed: ZeroDivisionError\. The kernel's log has more\.$"):
        Screen(stub_listeners).call("wrong")
    assert "a call of a face failed" in caplog.text


def test_a_fault_in_the_state_is_logged_once_and_the_faces_go_on_after_it(
    stub_listeners: Listeners, watcher: StubWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    screen = Screen(stub_listeners)
    screen.until(lambda: screen.state)
    watcher.says = ZeroDivisionError()
    for _ in range(4):
        assert screen.call("quick") == "quick"
    assert [record.message for record in caplog.records] == ["the faces cannot be drawn"]
    watcher.says = DpcError("The node is stopped")  # it stops just now: no fault
    assert screen.call("quick") == "quick"
    watcher.says = {"chosen": 3}
    screen.until(lambda: screen.state["chosen"] == 3)
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.ERROR


def test_closed_listeners_tell_nobody_and_take_nothing(
    stub_listeners: Listeners, slow: SlowCalls, watcher: StubWatcher
) -> None:
    screen = Screen(stub_listeners)
    screen.until(lambda: screen.state)
    waiting = [screen.ask("slow") for _ in range(listeners._WORKERS + 1)]
    stub_listeners.close()
    until_in_thread(lambda: stub_listeners._thread is None)
    heard = len(screen.heard)
    watcher.says = {"chosen": 2}
    stub_listeners.attach("late", screen.receive)
    stub_listeners.take({"client": screen.client, "id": "1", "method": "quick"})
    slow.may_end.set()
    until_in_thread(lambda: not [each for each in threading.enumerate() if each.name.startswith("dpc-face")])
    told = [each.get("reply") for each in screen.heard[heard:]]
    assert set(told) <= set(waiting[:-1]), "what was under way may say so; what waited was not begun"
    assert not stub_listeners._faces


# What they see.


def test_without_a_node_a_face_shows_who_is_known_and_how_to_go_on(
    screen: Screen, asker_home: Home, asker: Identity
) -> None:
    asker_home.edit_peers(lambda _: {ANNA: {"name": "anna", "uri": "dpc://x", "last_seen": 5}, DAVE: {"last_seen": 6}})
    assert screen.shows("node", running=False)["node_id"] == asker.node_id
    assert screen.state["hosts"][0]["reason"] == "the node is not started"
    screen.call("usage", days=1)
    screen.call("stop")
    assert screen.host(ANNA, state="known", name="anna")["last_seen"] == 5
    assert screen.host(DAVE, state="known")["name"] == "dpc-node-dddd…dddd"


def test_the_node_is_started_and_stopped_from_a_face(screen: Screen, notebook: Notebook) -> None:
    assert screen.call("start") is None
    assert screen.state["node"]["running"] and notebook.running is not None
    assert screen.call("stop") is None
    assert not screen.state["node"]["running"] and notebook.running is None


def test_a_linked_host_shows_its_models_and_how_it_is_reached(screen: Screen, linked: str) -> None:
    found = screen.host(linked, state="ready")
    assert (found["name"], found["kind"], found["reason"], found["running"]) == ("anna", "TLS", "", 0)
    assert [(each["model"], each["provider"], each["context_window"]) for each in found["models"]] == [
        ("stub-1", "stub", 4096),
        ("stub-2", "stub", 4096),
    ]
    assert [host["id"] for host in screen.state["hosts"]] == ["local", linked]
    assert [each["model"] for each in screen.state["hosts"][0]["models"]] == ["stub-1", "stub-2"]


def test_a_host_with_a_line_is_busy_and_requests_show_where_they_stand(
    screen: Screen, linked: str, node: BackgroundNode, stub_host: StubHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LOAD_EVERY_S", 0.05)
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.hold)
    readers = [node.execute_ai_query("hello", "anna", model="stub-1") for _ in range(2)]
    busy = screen.host(linked, state="busy", running=1, waiting=1)
    assert [each["model"] for each in busy["models"]] == ["stub-1", "stub-2"]
    screen.until(lambda: [each["state"] for each in screen.state["requests"]["asking"]] == ["running", "queued"])
    first, second = screen.state["requests"]["asking"]
    assert (first["peer"], first["name"], first["model"], first["position"]) == (linked, "anna", "stub-1", None)
    assert (second["position"], second["tokens"], first["tokens"]) == (1, 0, 1)
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.gate.set)
    for reader in readers:
        list(reader)
    screen.host(linked, state="ready", running=0, waiting=0)
    screen.until(lambda: not screen.state["requests"]["asking"])
    screen.shows("today", asks=2, hosts=1, asked_tokens=22)
    screen.until(lambda: max(screen.state["rate"]["history"]) > 0)
    assert len(screen.state["rate"]["history"]) == 60


def test_a_host_that_was_left_is_known_and_one_that_is_gone_says_why(
    screen: Screen, node: BackgroundNode, linked: str, stub_host: StubHost
) -> None:
    node.run(node.service.disconnect("anna"))
    assert screen.host(linked, state="known")["reason"] == ""
    screen.call("connect", address="anna")
    screen.host(linked, state="ready")
    stub_host.node.stop()
    gone = screen.host(linked, state="unreachable")
    assert gone["reason"].startswith("disconnected: ") and gone["models"] == [] and gone["last_seen"] > 1e9
    with pytest.raises(Refused):
        screen.call("connect", address=linked)
    assert "Nothing listens at" in screen.host(linked, state="unreachable")["reason"]


def test_a_host_that_has_not_let_us_in_says_so(screen: Screen, linked: str, stub_host: StubHost) -> None:
    stub_host.node.service.home.edit_access(lambda document: firewall.set_enabled(document, False))
    screen.until(lambda: screen.host(linked)["models"] == [])
    assert screen.host(linked)["reason"] == "no models for you: its owner has not let you in"
    assert screen.host(linked)["running"] is None, "how busy it is, is for those that it lets in"


def test_the_choice_of_a_face_is_the_notebooks_and_one_that_fails_leaves_it(
    screen: Screen, node: BackgroundNode, linked: str, notebook: Notebook
) -> None:
    assert screen.call("choose", host="anna", model="stub-2") == {"id": linked, "name": "anna", "model": "stub-2"}
    assert screen.state["chosen"] == {"id": linked, "name": "anna", "model": "stub-2"}
    with pytest.raises(Refused, match=r"^Nobody is known as nobody"):
        screen.call("choose", host="nobody")
    assert (notebook.host, notebook.model) == (linked, "stub-2")
    node.run(node.service.disconnect("anna"))
    screen.call("choose", host=linked)
    assert screen.state["chosen"]["model"] is None
    screen.host(linked, state="ready")
    screen.call("choose", host="local")
    assert screen.state["chosen"] == {"id": "local", "name": "this machine", "model": None}


def test_sharing_can_be_paused_from_a_face(screen: Screen, node: BackgroundNode) -> None:
    screen.call("pause", on=True)
    assert screen.state["node"]["paused"]
    screen.call("apply", edits=[{"kind": "person", "node_id": DAVE, "listed": True}])
    assert node.service.home.read_access().paused, "an editor's edit of something else keeps it"
    screen.call("pause", on=False)
    assert not screen.state["node"]["paused"]
    node.service.home.edit_access(lambda document: firewall.set_paused(document, True))
    screen.until(lambda: screen.state["node"]["paused"])


@pytest.mark.parametrize("runs", [False, True])
def test_an_edit_by_hand_is_seen_within_a_second(
    screen: Screen, asker_home: Home, request: pytest.FixtureRequest, runs: bool
) -> None:
    if runs:
        request.getfixturevalue("node")
    asker_home.edit_access(lambda document: firewall.allow(document, DAVE, name="dave"))
    until_in_thread(lambda: screen.state.get("access", {}).get("people"), within_s=1.2)
    (dave,) = screen.state["access"]["people"]
    assert (dave["node_id"], dave["name"], dave["listed"], dave["models"]) == (DAVE, "dave", True, [])
    asker_home.access_path.write_text('{"compute": {"enabled": maybe}}')
    until_in_thread(lambda: screen.state["access"]["error"], within_s=1.2)
    assert "line 1, column 25" in screen.state["access"]["error"]
    assert screen.state["access"]["people"] == []
    if runs:
        assert screen.state["node"]["error"] == screen.state["access"]["error"]
    with pytest.raises(Refused, match="line 1, column 25"):
        screen.call("apply", edits=[{"kind": "sharing", "on": True}])


@pytest.mark.parametrize(
    ("file", "runs"),
    [("pending.json", False), ("pending.json", True), ("peers.json", False), ("ledger.sqlite3", True)],
)
def test_a_spoilt_file_is_named_and_everything_else_is_shown(
    screen: Screen, asker_home: Home, request: pytest.FixtureRequest, file: str, runs: bool
) -> None:
    if runs:
        request.getfixturevalue("node")
    (asker_home.path / file).touch(0o600)
    (asker_home.path / file).write_text("{" * 5000)
    screen.until(lambda: file in (screen.state.get("node", {}).get("error") or ""))
    assert screen.call("choose", host="local", model="x")["model"] == "x"
    assert screen.state["chosen"]["model"] == "x"
    (asker_home.path / file).unlink()
    screen.shows("node", error=None)


def test_a_key_that_others_can_read_is_named(screen: Screen, asker_home: Home) -> None:
    screen.shows("node", running=False, error=None, node_id=asker_home.load_identity().node_id)  # looked at once
    (asker_home.path / "node.key").chmod(0o644)
    fault = screen.shows("node", running=False, node_id="")["error"]
    assert "chmod 600" in fault
    with pytest.raises(Refused, match="chmod 600"):
        screen.call("start")


def test_odd_values_that_people_wrote_into_the_files_are_taken_for_none(
    screen: Screen, asker_home: Home, node: BackgroundNode
) -> None:
    odd: Message = {ANNA: {"name": ["x"], "model": None, "when": 10**400}, DAVE: {"when": True}}
    (asker_home.path / "pending.json").write_text(json.dumps(odd))
    screen.until(lambda: screen.state.get("pending"))
    assert {each["node_id"]: each["when"] for each in screen.state["pending"]} == {ANNA: 0.0, DAVE: 1.0}


def test_an_engine_that_hangs_does_not_hold_up_the_faces(
    screen: Screen, node: BackgroundNode, engine: StubEngine
) -> None:
    screen.until(lambda: screen.state.get("hosts", [{}])[0].get("models"))
    engine.list_pause_s, node.service._rooms.registry._fresh_s = 30, 0
    screen.call("pause", on=True)
    assert [each["model"] for each in screen.state["hosts"][0]["models"]] == ["stub-1", "stub-2"]


def lines_of(value: Any) -> Iterator[str]:
    """Every text in a state."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for each in value:
            yield from lines_of(each)
    elif isinstance(value, str):
        yield value


def test_what_a_hostile_peer_says_comes_out_as_one_harmless_line(
    screen: Screen, asker_home: Home, notebook: Notebook, engine: StubEngine, stub_host: StubHost
) -> None:
    stub_host.node.service.name = HOSTILE
    stub_host.engine.names = (HOSTILE, "\x1b[2Jcleared\u200b")
    stub_host.engine.alias = HOSTILE
    asker_home.note_pending(DAVE, HOSTILE, HOSTILE, 1.0)
    asker_home.edit_peers(lambda _: {ANNA: {"name": HOSTILE, "uri": HOSTILE, "last_seen": HOSTILE}})
    screen.until(lambda: len(screen.state.get("pending", [])) == 1)
    node = BackgroundNode(asker_home, name=HOSTILE, registry=Registry([engine]))
    node.start()
    notebook._node = node
    host = screen.call("connect", address=stub_host.uri)["id"]
    screen.until(lambda: len(screen.host(host)["models"]) == 2)
    screen.call("choose", host=host)
    reader = node.execute_ai_query("hello", host, model=screen.state["hosts"][1]["models"][0]["model"])
    with pytest.raises(DpcError):
        list(reader)
    stub_host.node.run(_closed(stub_host, HOSTILE))
    assert screen.host(host, state="unreachable")["reason"].startswith("disconnected: ")
    shown = list(lines_of([each.get("state", {}) for each in screen.heard]))
    assert [text for text in shown if not text.isprintable()] == []
    assert any("<img src=x onerror=alert(1)>gnp" in text for text in shown), "letters stay: a face draws text, no HTML"
    (pending,) = screen.state["pending"]
    assert (pending["node_id"], pending["name"]) == (DAVE, pending["model"])


def test_every_text_of_a_snapshot_is_made_one_line_wherever_it_was_cleaned_before() -> None:
    offer = ProviderInfo(alias=HOSTILE, model=HOSTILE)
    peer = PeerStatus(ANNA, "1", HOSTILE, "TLS", HOSTILE, True, True, None, (offer,))
    attempts = (Attempt(HOSTILE, error=HOSTILE), Attempt("WebRTC", won=True))
    hosts = host_views([offer], HOSTILE, [peer], [KnownPeer(DAVE, HOSTILE, 0.0, HOSTILE)], lambda _: attempts)
    found = found_views([FoundNode(DAVE, HOSTILE, (HOSTILE,), ())])
    requests = request_views([RequestStatus(ANNA, HOSTILE, HOSTILE, "running", None, 0.0)])
    pending = pending_views({DAVE: {"name": HOSTILE, "model": HOSTILE, "when": 1}})
    status = NodeStatus(ANNA, HOSTILE, "1", None, False, False, 0, HOSTILE, None, (), (), ())
    nodes = [node_view(status, ANNA, "1"), node_view(None, ANNA, "1", HOSTILE)]
    shown = list(lines_of(msgspec.json.decode(msgspec.json.encode([hosts, found, requests, pending, nodes]))))
    assert [text for text in shown if not text.isprintable()] == []
    assert len([text for text in shown if "gnp" in text]) == 18


def test_what_was_tried_is_told_of_a_peer_that_was_dialled_and_of_no_other() -> None:
    attempts = (Attempt("TLS at h:1", error="Nothing listens."), Attempt("WebRTC", won=True))
    offers = (ProviderInfo(alias="a", model="m"),)
    for outgoing, told in ((True, "Tried as well: TLS at h:1 (Nothing listens)."), (False, "")):
        peer = PeerStatus(ANNA, "1", "anna", "WebRTC", "", outgoing, True, None, offers)
        assert host_views((), "", [peer], (), {ANNA: attempts}.__getitem__)[1].tried == told


def test_a_node_that_is_found_twice_is_shown_once_and_one_without_a_name_by_its_id() -> None:
    found = found_views(
        [FoundNode(ANNA, "", ("a",), ()), FoundNode(DAVE, "dave", (), ()), FoundNode(ANNA, "", ("a",), ())]
    )
    assert [(each.id, each.name) for each in found] == [(ANNA, "dpc-node-aaaa…aaaa"), (DAVE, "dave")]


async def _closed(stub_host: StubHost, reason: str) -> None:
    for peer in stub_host.node.service._rooms.links.peers:
        peer.close(reason)


# The access file.


def test_a_preview_shows_what_would_be_written_and_writes_nothing(screen: Screen, asker_home: Home) -> None:
    edit = {"kind": "person", "node_id": DAVE, "listed": True, "name": "da\u202eve", "expires": "7d"}
    shown = screen.call("preview", edits=[edit])
    assert shown["changed"] is True and not asker_home.access_path.exists()
    assert all(line["sign"] in " +-" and line["text"].isprintable() for line in shown["lines"])
    assert {"sign": "+", "text": '      "name": "dave",'} in shown["lines"]
    screen.call("apply", edits=[edit])
    (dave,) = screen.state["access"]["people"]
    assert dave["expires"].endswith("Z") and not dave["expired"]
    assert screen.call("preview", edits=[{**edit, "expires": dave["expires"]}])["changed"] is False
    screen.call("apply", edits=[{"kind": "person", "node_id": DAVE, "expires": "never"}])
    assert screen.state["access"]["people"][0]["expires"] == ""


@pytest.mark.parametrize("expires", ["soon", "9999999999999d", "²d"])
def test_an_end_that_is_none_is_refused_in_a_sentence(screen: Screen, expires: str) -> None:
    with pytest.raises(Refused, match=r"write 12h|write never|must be a date"):
        screen.call("apply", edits=[{"kind": "person", "node_id": DAVE, "expires": expires}])


def test_the_editor_sees_people_groups_and_who_has_expired(screen: Screen, asker_home: Home) -> None:
    edits: list[Message] = [
        {"kind": "sharing", "on": True},
        {"kind": "everyone", "models": ["a*"], "limits": {"running": 3}},
        {"kind": "group", "name": "lab", "allowed": True, "members": {"add": [DAVE], "remove": []}, "models": ["ab"]},
        {"kind": "person", "node_id": ANNA, "name": "anna", "listed": True},
    ]
    screen.call("apply", edits=edits)
    asker_home.edit_access(lambda document: firewall.allow(document, ANNA, expires="2020-01-01"))
    screen.until(lambda: any(each["expired"] for each in screen.state["access"]["people"]))
    access = screen.state["access"]
    assert (access["path"], access["error"], access["sharing"]) == (str(asker_home.access_path), None, True)
    assert access["everyone"]["models"] == ["a*"] and access["everyone"]["limits"]["running"] == 3
    assert access["everyone"]["limits"]["queued"] is None
    (lab,) = access["groups"]
    assert (lab["name"], lab["allowed"], lab["members"], lab["models"]) == ("lab", True, [DAVE], ["ab"])
    people = {each["node_id"]: each for each in access["people"]}
    assert (people[ANNA]["expired"], people[ANNA]["listed"], people[ANNA]["groups"]) == (True, True, [])
    assert (people[DAVE]["expired"], people[DAVE]["listed"], people[DAVE]["groups"]) == (False, False, ["lab"])
    decided = screen.call("explain", who="anna", model="ab")
    assert decided["allowed"] is False and decided["line"] > 1 and decided["sentence"].startswith("no: line ")


def test_a_refused_request_is_granted_or_dismissed_with_one_click(screen: Screen, asker_home: Home) -> None:
    for node_id in (ANNA, DAVE):
        asker_home.note_pending(node_id, "a friend", "llama3.1:8b", 5.0 if node_id == ANNA else 6.0)
    screen.until(lambda: [each["node_id"] for each in screen.state.get("pending", [])] == [DAVE, ANNA])
    said = screen.call("allow", node_id=DAVE, model="llama3.1:8b", expires="7d")
    not_what_it_calls_itself = f"{DAVE} may use llama3.1:8b once sharing is on, until 2"
    assert said["sentence"].startswith(not_what_it_calls_itself)
    assert [each["node_id"] for each in screen.state["pending"]] == [ANNA]
    assert screen.state["access"]["people"][0]["name"] == ""
    screen.call("dismiss", node_id=ANNA)
    assert screen.state["pending"] == []
    assert len(screen.state["access"]["people"]) == 1


@pytest.mark.parametrize("model", ["*", "llama*"])
def test_a_stranger_that_asked_for_a_pattern_is_not_granted_it(screen: Screen, asker_home: Home, model: str) -> None:
    asker_home.note_pending(DAVE, "dave", model, 5.0)
    with pytest.raises(Refused, match="is no model's name"):
        screen.call("allow", node_id=DAVE, model=model)
    assert screen.state["access"]["people"] == []


def test_one_click_for_one_model_gives_back_nothing_that_had_ended(screen: Screen, asker_home: Home) -> None:
    asker_home.edit_access(lambda document: firewall.set_enabled(document, True))
    asker_home.edit_access(
        lambda document: firewall.allow(document, DAVE, name="dave", models=["big", "huge"], expires="2020-01-01")
    )
    screen.call("allow", node_id=DAVE, model="small", expires="7d")
    screen.until(lambda: screen.state["access"]["people"] and not screen.state["access"]["people"][0]["expired"])
    (dave,) = screen.state["access"]["people"]
    assert (dave["name"], dave["models"]) == ("dave", ["small"])
    screen.call("allow", node_id=DAVE, model="big")
    screen.until(lambda: screen.state["access"]["people"][0]["models"] == ["small", "big"])
    preview = screen.call("preview", edits=[{"kind": "person", "node_id": DAVE, "models": []}])
    assert preview["gains"] == ["dave"]


def test_an_invitation_does_where_an_address_does(screen: Screen, stub_host: StubHost, asker: Identity) -> None:
    service = stub_host.node.service
    service.access.deny("tester")
    line = f" {service.invitations.make('anna', models=('stub-1',))}\n"
    node_id = service.identity.node_id
    assert screen.call("connect", address=line, name="lab") == {"id": node_id, "name": "lab"}
    assert service.access.is_known(asker.node_id)
    with pytest.raises(Refused, match=r"damaged|not whole"):
        screen.call("connect", address=line[:40], name=None)


def test_an_invitation_is_made_shown_and_taken_back_from_a_face(
    screen: Screen, node: BackgroundNode, asker_home: Home
) -> None:
    reply = screen.reply(screen.ask("invite", {"name": "anna"}))
    assert reply["error"].startswith("No node of this home listens")
    node.run(node.service.listen("127.0.0.1", 0))
    made = screen.call("invite", name="anna", models=["llama3*, qwen3:8b"], group="", expires="7d")
    assert made["line"].startswith("dpc-invite:") and made["sentences"][1].startswith(
        "anna may then use llama3*, qwen3"
    )
    assert any(each.startswith("No engine here has ") and "qwen3:8b" in each for each in made["sentences"])
    (shown,) = screen.state["invitations"]
    assert (shown["id"], shown["name"], shown["models"]) == (made["id"], "anna", ["llama3*", "qwen3:8b"])
    assert shown["permission"] == "for 7d from joining" and shown["until"].endswith(" UTC")
    assert made["line"] not in json.dumps(screen.state)
    assert asker_home.read_invitations()[made["id"]]["secret"] not in json.dumps(screen.heard)
    assert screen.call("revoke_invitation", invite_id=made["id"]) == {
        "sentence": "The invitation for anna is taken back."
    }
    assert screen.state["invitations"] == []


def test_somebody_who_is_known_by_a_note_alone_is_nobody_in_the_editor(screen: Screen, asker_home: Home) -> None:
    """What an invitation leaves behind when its guest is removed."""
    asker_home.edit_access(lambda document: {**document, "nodes": {DAVE: {"_invitation": "00ff"}, ANNA: {"name": "a"}}})
    screen.until(lambda: screen.state.get("access", {}).get("people"))
    assert [each["node_id"] for each in screen.state["access"]["people"]] == [ANNA]


def test_two_editors_lose_nothing_of_each_others(faces: Faces, asker_home: Home) -> None:
    screens = [Screen(faces.listeners) for _ in range(4)]
    numbers = [
        (screen, screen.ask("apply", {"edits": [{"kind": "person", "node_id": _number(which, turn), "listed": True}]}))
        for turn in range(6)
        for which, screen in enumerate(screens)
    ]
    for screen, number in numbers:
        assert screen.reply(number)["result"] is None
    listed = asker_home.access_document()["compute"]["allow_nodes"]
    assert sorted(listed) == sorted(_number(which, turn) for turn in range(6) for which in range(4))


def _number(which: int, turn: int) -> str:
    return f"dpc-node-{which:016x}{turn:016x}"


def test_what_was_used_is_a_table(screen: Screen, linked: str, node: BackgroundNode) -> None:
    node.send_ai_query("hello", "anna", model="stub-1")
    table = screen.call("usage")
    assert [dict(zip(table["head"], row, strict=True))["Peer"] for row in table["rows"]] == ["anna"]
    assert screen.call("usage", days=0) == {"head": table["head"], "rows": []}


def test_faces_that_open_at_the_same_time_have_one_hub(notebook: Notebook) -> None:
    faces, found, barrier = Faces(notebook), list[Listeners](), threading.Barrier(8)

    def open_one() -> None:
        barrier.wait()
        found.append(faces.listeners)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8 and len(set(map(id, found))) == 1
    faces.listeners.close()
