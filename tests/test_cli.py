from __future__ import annotations

import asyncio
import csv
import functools
import io
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hub.running_hub import RunningHub
from node.stub import StubEngine
from node.waiting import until_in_thread
from running_host import COMMAND, FORBIDDEN, RunningHost, let_in, serving, weights, write_providers

from dpc_jupyter import firewall
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.cli import firewall as firewall_command
from dpc_jupyter.cli.main import _cell
from dpc_jupyter.home import Home
from dpc_jupyter.node.reaching.network import set_hub
from dpc_jupyter.node.thread import BackgroundNode

Cli = Callable[..., subprocess.CompletedProcess[str]]
DAVE = "dpc-node-" + "d" * 32


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def environment(home: Home) -> dict[str, str]:
    return {**os.environ, "DPC_HOME": str(home.path), "OLLAMA_HOST": "127.0.0.1:1", "COLUMNS": "200", "TERM": "dumb"}


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    """Run the command as a user does, in a process of its own."""

    def run(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], env=environment, input=said, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """A second process with the embedded model."""
    home = Home(tmp_path_factory.mktemp("host") / "home")
    write_providers(home)
    with serving(home, "--share") as running:
        yield running


def until_known(host: RunningHost, home: Home) -> None:
    """Let this home's node in, and wait until the running host has read it."""
    let_in(host.home, home.load_identity().node_id)
    time.sleep(1.0)  # what an edit may take at most


def no_model(home: Home) -> None:
    """A folder of models that was chosen and is empty; without this the embedded model is fetched when asked."""
    home.path.mkdir(0o700, exist_ok=True)
    (home.path / "providers.json").touch(0o600)
    (home.path / "providers.json").write_text('{"providers": [{"alias": "mine", "type": "llama_cpp"}]}')


def one_red_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip()


def test_id_makes_an_identity_once(cli: Cli, home: Home) -> None:
    first, second = cli("id"), cli("id")
    assert re.fullmatch(r"dpc-node-[0-9a-f]{32}\n", first.stdout)
    assert first.stdout == second.stdout == (home.path / "node.id").read_text()
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_the_home_may_be_named(cli: Cli, tmp_path: Path) -> None:
    assert cli("--home", str(tmp_path / "other"), "id").stdout == (tmp_path / "other" / "node.id").read_text()


def test_a_damaged_identity_is_one_red_line(cli: Cli, home: Home) -> None:
    cli("id")
    (home.path / "node.key").write_text("damaged")
    assert "node.key is damaged" in one_red_line(cli("id"))


def test_ask_streams_a_remote_answer_and_says_where_it_came_from(cli: Cli, host: RunningHost, home: Home) -> None:
    until_known(host, home)
    done = cli("ask", "-H", host.uri, "--max-tokens", "12", "-t", "0", "-", said="Say hello.")
    assert done.returncode == 0, done.stderr
    *text, where = done.stdout.splitlines()
    assert " ".join(text).strip() and where.startswith("test-host · smollm2:135m · ")
    assert "\x1b" not in done.stdout
    raw = cli("ask", "-H", "test-host", "--max-tokens", "5", "--raw", "Say hello.")
    assert raw.returncode == 0 and "smollm2" not in raw.stdout
    assert "test-host" in cli("peers").stdout and host.uri in cli("peers").stdout
    assert "smollm2:135m" in cli("usage").stdout
    rows = list(csv.DictReader(io.StringIO(cli("usage", "--csv").stdout)))
    assert [(row["role"], row["peer"], row["outcome"]) for row in rows] == [("asker", host.node_id, "ok")] * 2
    refused = cli("ask", "-H", host.uri, "-m", FORBIDDEN, "May I?")
    assert one_red_line(refused) == (
        f"Access denied: You are not authorized to request inference for model {FORBIDDEN}. "
        "test-host lets you use: smollm2:135m."
    )
    lines = [re.split(r"  +", line) for line in cli("usage").stdout.splitlines()]
    assert [line[:5] for line in lines[1:]] == [
        ["asked", "test-host", "smollm2:135m", "2", "0"],
        ["asked", "test-host", FORBIDDEN, "0", "1"],
    ]


def test_ask_without_a_host_asks_this_machine(cli: Cli, home: Home) -> None:
    write_providers(home)
    done = cli("ask", "--max-tokens", "5", "Say hello.")
    assert done.returncode == 0 and "this machine · smollm2:135m" in done.stdout


def test_a_model_that_is_not_there_is_answered_with_those_that_are(cli: Cli, home: Home) -> None:
    write_providers(home)
    assert one_red_line(cli("ask", "-m", "smollm:135m", "Hello")) == (
        "Model 'smollm:135m' not found. dpc-jupyter models list shows what embedded has. Did you mean smollm2:135m?"
    )


def test_an_option_out_of_its_range_is_refused_before_anybody_is_asked(cli: Cli, home: Home) -> None:
    unreachable = f"dpc://127.0.0.1:1?node_id={DAVE}"
    for option, value, fix in (("-t", "9", "from 0 to 2:"), ("--max-tokens", "-5", "from 1 to 32768:")):
        assert fix in one_red_line(cli("ask", "-H", unreachable, option, value, "Hello"))
    assert not home.path.exists()


def test_the_version_is_told(cli: Cli) -> None:
    assert re.fullmatch(r"dpc-jupyter \d+\.\d+\.\d+\n", cli("--version").stdout)


def test_a_table_is_copyable_whatever_the_width(cli: Cli, environment: dict[str, str], home: Home) -> None:
    environment["COLUMNS"] = "40"
    cli("firewall", "allow", DAVE, "--name", "dave", "--model", "a-model-with-a-long-name")
    (line,) = [line for line in cli("firewall", "show").stdout.splitlines() if line.startswith("dave")]
    assert line.split() == ["dave", DAVE, "a-model-with-a-long-name", "no", "end"]
    uri = f"dpc://a-host-of-somebody.example.org:8889?node_id={DAVE}"
    home.edit_peers(lambda _: {DAVE: {"name": "dave", "uri": uri, "last_seen": 0}})
    assert f" {uri} " in cli("peers").stdout


def test_failures_name_a_fix_that_is_a_command(cli: Cli, home: Home) -> None:
    assert one_red_line(cli("ask", "-H", "carol", "Hello")) == (
        "Nobody is known as carol. Connect first: dpc-jupyter ask --host dpc://..."
    )
    assert "An address looks like dpc://host:8889" in one_red_line(cli("ask", "-H", "dpc://x", "Hello"))
    no_model(home)
    assert "`dpc-jupyter models pull`" in one_red_line(cli("ask", "Hello"))
    assert "The prompt is empty" in one_red_line(cli("ask", "-", said=" \n"))
    assert "cannot be read" in one_red_line(cli("ask", "--image", "/nowhere.png", "Hello"))
    assert cli("ask").returncode == 2


def test_ctrl_c_stops_the_request_at_the_host_too(environment: dict[str, str], home: Home, tmp_path: Path) -> None:
    """The host's engine is a stub that never ends by itself."""
    engine = StubEngine(tokens=100_000, pause_s=0.01)
    host_home = Home(tmp_path / "stub-host")
    host_home.edit_access(lambda document: firewall.set_enabled(document, True))
    host_home.edit_access(lambda document: firewall.allow(document, home.load_identity().node_id))
    node = BackgroundNode(host_home, name="stub-host", registry=Registry([engine]))
    try:
        node.start(("127.0.0.1", 0))
        command = [*COMMAND, "ask", "-H", str(node.status().uri), "Hello"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
            until_in_thread(lambda: engine.produced > 10, 20)
            asking.send_signal(signal.SIGINT)
            out, errors = asking.communicate(timeout=10)
        assert asking.returncode == 130 and errors == b"Stopped.\n" and out.startswith(b"stub stub")
        until_in_thread(lambda: not node.status().serving and engine.running == 0, 1)
    finally:
        node.stop()


def test_serve_prints_its_address_alone_and_says_what_is_missing(home: Home) -> None:
    no_model(home)
    with serving(home) as host:
        assert re.fullmatch(r"dpc://127\.0\.0\.1:\d+\?node_id=dpc-node-[0-9a-f]{32}", host.uri)
        until_in_thread(lambda: "No model can be asked" in host.log.read_text())
        said = host.log.read_text()
        assert "Sharing is off: nobody can ask this node. Turn it on: dpc-jupyter firewall on" in said
    assert host.process.returncode == 0
    with serving(home, "--share") as host:
        until_in_thread(lambda: "No model can be asked" in host.log.read_text())
        assert "Nobody is let in yet: dpc-jupyter invite NAME" in host.log.read_text()
        assert "paused" not in host.log.read_text()
    home.edit_access(lambda document: firewall.set_paused(document, True))
    home.edit_access(lambda document: firewall.allow(document, DAVE, name="dave", expires="2020-01-31"))
    with serving(home) as host:
        until_in_thread(lambda: "No model can be asked" in host.log.read_text())
        said = host.log.read_text()
    assert "Sharing is paused: what runs goes on, new requests are refused. dpc-jupyter firewall resume ends" in said
    assert "Let in: dave (ended 2020-01-31)" in said


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "hub").start()
    yield running
    running.kill()


def test_the_hub_and_the_local_network_are_set_and_shown(cli: Cli, home: Home) -> None:
    nothing = cli("network").stdout
    assert "Hub: none" in nothing and "STUN and TURN: none" in nothing
    shown = cli("network", "--hub", "https://hub.example.org:8890", "--fingerprint", "ab" * 32, "--no-lan").stdout
    assert "Hub: https://hub.example.org:8890\nLocal network: silent\n" in shown
    hub = {"url": "https://hub.example.org:8890", "fingerprint": "ab" * 32}
    assert home.read_network() == {"hub": hub, "lan": False}
    assert "give --hub" in one_red_line(cli("network", "--fingerprint", "ab" * 32))
    assert "is not encrypted" in one_red_line(cli("network", "--hub", "http://hub.example.org"))
    assert home.read_network() == {"hub": hub, "lan": False}
    cli("network", "--hub", "off", "--lan")
    assert home.read_network() == {}


def test_serve_without_a_port_says_whether_it_is_online_and_when_that_changes(
    cli: Cli, home: Home, hub: RunningHub
) -> None:
    no_model(home)
    lonely = one_red_line(cli("serve", "--no-listen"))
    assert "it is to open no port, and has no hub" in lonely and "dpc-jupyter network --hub" in lonely
    set_hub(home, hub.url)
    with serving(home, "--no-listen") as host:
        assert host.uri == home.load_identity().node_id
        until_in_thread(lambda: f"This node is online at {hub.url}" in host.log.read_text())
        ours = [each for each in psutil.Process(host.process.pid).net_connections() if each.status == "LISTEN"]
        assert ours == []
        hub.stop()
        for why in ("It was lost: it is restarting", "It does not answer: nothing listens there"):
            until_in_thread(lambda: f"This node is not online at {hub.url}: {why}" in host.log.read_text())  # noqa: B023
        hub.start()
        until_in_thread(lambda: host.log.read_text().count(f"This node is online at {hub.url}") == 2)
    assert host.process.returncode == 0 and "It was stopped" not in host.log.read_text()


def test_a_host_without_a_port_stays_linked_to_a_relay_over_which_it_is_asked(
    cli: Cli, home: Home, tmp_path: Path
) -> None:
    write_providers(owner := Home(tmp_path / "owner"))
    let_in(owner, home.load_identity().node_id)
    rita = Home(tmp_path / "rita")
    no_model(rita)
    for each in (owner, home):
        node_id = each.load_identity().node_id
        rita.edit_access(lambda document: firewall.allow(document, node_id))  # noqa: B023
    rita.edit_access(lambda document: {**document, "relay": {"enabled": True}})
    with serving(rita, "--share") as relay, serving(owner, "--no-listen", "--connect", relay.uri) as host:
        until_in_thread(lambda: "connected" in host.log.read_text())
        asker = BackgroundNode(home, registry=Registry([]))
        try:
            asker.start()
            asker.run(asker.service.connect(relay.uri))
            until_in_thread(lambda: asker.service._rooms.reach._ways._over_peers(host.uri, 5))
            asked = asker.run(asker.service.connect(host.uri))
            assert asked.kind == "relay"
        finally:
            asker.stop()
    assert "no address" in one_red_line(cli("serve", "--no-listen", "--connect", "https://example.org"))


def test_doctor_asks_the_hub_for_a_second(cli: Cli, home: Home, hub: RunningHub) -> None:
    no_model(home)
    assert re.search(r"ok +network +no hub: ", cli("doctor").stdout)
    set_hub(home, hub.url)
    assert re.search(r"warn +hub .*no identity", cli("doctor").stdout)
    cli("id")
    assert re.search(rf"ok +hub +{hub.url} lets this node log in", cli("doctor").stdout)
    hub.kill()
    assert re.search(rf"warn +hub +The hub at {hub.url} does not answer", cli("doctor").stdout)
    with socket.create_server(("127.0.0.1", hub.port)):  # which takes connections and says nothing
        began = time.monotonic()
        assert re.search(rf"warn +hub +The hub at {hub.url} did not answer within 1 s", cli("doctor").stdout)
        assert time.monotonic() - began < 20
    home.network_path.write_text('{"hub": {"adress": "x"}}')
    broken = cli("doctor")
    assert broken.returncode == 1 and re.search(r"fail +network .*network\.json", broken.stdout)


def test_serve_tells_of_a_stranger_with_the_command_that_lets_it_in(cli: Cli, home: Home, tmp_path: Path) -> None:
    owner = Home(tmp_path / "owner")
    write_providers(owner)
    with serving(owner, "--share") as host:
        refused = one_red_line(cli("ask", "-H", host.uri, "-m", "smollm2:135m", "Hello"))
        assert refused.startswith(
            "Access denied: You are not authorized to request inference. Send its owner your node id:"
        )
        stranger = home.load_identity().node_id
        command = f"dpc-jupyter firewall allow {stranger}"
        until_in_thread(lambda: f"{command} --name" in host.log.read_text())
        assert "--model smollm2:135m" in host.log.read_text()
        time.sleep(1.1)  # a stranger may ask once a second
        one_red_line(cli("ask", "-H", host.uri, "-m", "smollm2:135m", "Hello"))
        assert host.log.read_text().count(command) == 1
        assert "Hello" not in host.log.read_text()
        listed = cli("--home", str(owner.path), "firewall", "pending")
        assert f"{command} --name" in listed.stdout and "--model smollm2:135m" in listed.stdout


def test_serve_tells_of_each_request_in_one_line_without_its_prompt(cli: Cli, home: Home, tmp_path: Path) -> None:
    owner = Home(tmp_path / "owner")
    write_providers(owner)
    let_in(owner, home.load_identity().node_id, name="dave")
    with serving(owner) as host:
        assert cli("ask", "-H", host.uri, "--max-tokens", "5", "A canary, please.").returncode == 0
        one_red_line(cli("ask", "-H", host.uri, "-m", FORBIDDEN, "A canary, please."))
        until_in_thread(lambda: "denied" in host.log.read_text())
        said = host.log.read_text()
    assert re.search(r"^\d\d:\d\d:\d\d dave · smollm2:135m · \d+ tokens · [\d.]+ s · ok$", said, re.MULTILINE)
    assert re.search(rf"dave · {FORBIDDEN} · 0 tokens · [\d.]+ s · denied$", said, re.MULTILINE)
    assert "canary" not in said
    shown = cli("--home", str(owner.path), "usage").stdout.splitlines()
    assert [line.split()[:5] for line in shown[1:]] == [
        ["served", "dave", "smollm2:135m", "1", "0"],
        ["served", "dave", FORBIDDEN, "0", "1"],
    ]


def test_firewall_round_trip(cli: Cli) -> None:
    assert "Sharing is off" in cli("firewall", "show").stdout
    assert cli("firewall", "on").stdout == "Sharing is on.\n"
    allowed = cli("firewall", "allow", DAVE, "--name", "dave", "--model", "a*", "--expires", "7d")
    assert "\nyes: line " in allowed.stdout and allowed.stdout.startswith("dave may use a*, until ")
    assert "dave" in cli("firewall", "show").stdout and "a*" in cli("firewall", "show").stdout
    added = cli("firewall", "allow", "dave", "--model", "b").stdout
    assert "dave may use a*, b, until " in added and "dpc-jupyter firewall deny dave MODEL takes one away." in added
    assert "added to those" in " ".join(re.findall(r"\w+", cli("firewall", "allow", "--help").stdout))
    cli("firewall", "deny", "dave", "b")
    assert cli("firewall", "explain", "dave", "abc").stdout.startswith("yes: ")
    assert "allowed_models of dave: a*" in cli("firewall", "explain", "dave", "xyz").stdout
    assert cli("firewall", "deny", "dave").stdout.startswith("no: ")
    paused = cli("firewall", "pause").stdout
    assert paused == (
        "Sharing is paused: what runs goes on, new requests are refused. dpc-jupyter firewall resume ends that.\n"
    )
    assert cli("firewall", "show").stdout.startswith(paused) and cli("firewall", "on").stdout == paused
    assert cli("firewall", "resume").stdout == "Sharing is on.\n"
    assert (
        cli("firewall", "show")
        .stdout.splitlines()[-1]
        .startswith("It relays for nobody. dpc-jupyter firewall relay on lets")
    )
    cli("firewall", "allow", DAVE, "--name", "dave")
    assert "It relays between those that you let in, of whom there must be two" in cli("firewall", "relay", "on").stdout
    cli("firewall", "allow", "dpc-node-" + "e" * 32, "--name", "erin")
    relayed = "It relays between dave, erin, for each 4 links at once and 1,024 MB a day: "
    assert cli("firewall", "show").stdout.splitlines()[-1].startswith(relayed)
    assert cli("firewall", "relay", "off").stdout.startswith("It relays for nobody.")
    assert cli("firewall", "relay", "maybe").returncode == 2
    assert cli("firewall", "off").stdout == "Sharing is off.\n"
    assert cli("firewall", "pending").stdout == "Nobody has asked and been refused.\n"
    assert "No node is called 'zoe' here" in one_red_line(cli("firewall", "allow", "zoe"))


def test_a_permission_for_what_is_not_there_is_given_and_doubted(cli: Cli, home: Home) -> None:
    write_providers(home)
    said = cli("firewall", "allow", DAVE, "--name", "dave", "--model", "smollm:135m", "--group", "lab").stdout
    assert said.startswith("dave may use smollm:135m once sharing is on, without an end.\nno: ")
    assert said.splitlines()[2:] == [
        "No engine here has smollm:135m now; did you mean smollm2:135m?",
        "Group lab is new.",
    ]
    assert len(cli("firewall", "allow", "dave", "--model", "smollm2:135m", "--group", "lab").stdout.splitlines()) == 2


def test_a_permission_waits_for_no_engine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(home: Home) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(firewall_command, "engines", silent)
    monkeypatch.setattr(firewall_command, "_LOOK_S", 0.05)
    assert firewall_command.models_here(home) == []
    home.path.mkdir(0o700)
    (home.path / "providers.json").touch(0o600)
    monkeypatch.undo()
    assert firewall_command.models_here(home) == [], "a fault of another file is no fault of the permission"


def test_one_line_lets_somebody_in_while_a_host_serves(cli: Cli, home: Home, tmp_path: Path) -> None:
    """Three homes, four kinds of process: the host, its owner's terminal, who joins, and who comes too late."""
    owner = Home(tmp_path / "owner")
    write_providers(owner)
    as_owner = functools.partial(cli, "--home", str(owner.path), "invite")
    assert "Run dpc-jupyter serve --share first" in one_red_line(as_owner("anna"))
    assert as_owner("--list").stdout == "There are no invitations: dpc-jupyter invite NAME\n"
    assert "Whom? dpc-jupyter invite NAME" in one_red_line(as_owner())
    with serving(owner, "--share") as host:
        made = as_owner("anna", "--models", "smollm2:135m", "--expires", "7d", "--limit", "running=1")
        assert re.fullmatch(r"dpc-invite:[A-Za-z0-9_-]{60,120}\n", made.stdout), made.stdout
        assert "to anna and to nobody else. It works once, until 2" in made.stderr
        assert "anna may then use smollm2:135m, for 7d from joining, with running=1." in made.stderr
        joined = cli("join", made.stdout[:30], made.stdout[30:])
        assert joined.stdout.splitlines() == [
            f"Joined test-host ({host.node_id}) by TLS at {host.uri[6:].partition('?')[0]}: its owner calls you anna.",
            "test-host lets you use: smollm2:135m.",
            "Ask it: dpc-jupyter ask --host test-host Hello",
        ], joined
        assert cli("ask", "--host", "test-host", "--max-tokens", "3", "Hello").returncode == 0
        late = cli("--home", str(tmp_path / "late"), "join", made.stdout.strip())
        assert one_red_line(late).startswith("This invitation cannot be used")
        assert re.search(r"^anna +used by anna +smollm2:135m", as_owner("--list").stdout, re.MULTILINE)
        assert "dpc-jupyter firewall deny" in one_red_line(as_owner("--revoke", "anna"))
        assert "all models, for 7d from joining." in as_owner("bob").stderr
        assert as_owner("--revoke", "bob").stderr == "The invitation for bob is taken back.\n"
        assert "--revoke bob" not in as_owner("bob").stderr
        assert "Copy the whole line" in one_red_line(cli("join", "dpc-invite:AAAA"))
        told = host.log.read_text()
    assert f"anna ({home.load_identity().node_id}) has joined by invitation and is let in." in told
    assert "tried an invitation and was refused: the invitation of anna is used by anna." in told


def test_an_ended_permission_is_shown_as_ended(cli: Cli, home: Home) -> None:
    no_model(home)
    home.edit_access(lambda document: firewall.set_enabled(document, True))
    home.edit_access(lambda document: firewall.set_paused(document, True))
    home.edit_access(lambda document: firewall.allow(document, DAVE, name="dave", expires="2020-01-31"))
    assert re.search(r"^dave .* ended 2020-01-31$", cli("firewall", "show").stdout, re.MULTILINE)
    found = cli("doctor").stdout
    assert re.search(r"warn +access +the access of dave ended 2020-01-31: `dpc-jupyter firewall allow dave ", found)
    assert re.search(r"warn +access +sharing is on for nobody", found) and "dave (all)" not in found
    assert re.search(r"warn +access +sharing is paused.*`dpc-jupyter firewall resume`", found)
    home.edit_access(lambda document: firewall.allow(document, DAVE, expires="never"))
    assert re.search(r"ok +access +dave \(all\)", cli("doctor").stdout)


def test_an_invalid_access_file_is_named_with_its_line(cli: Cli, home: Home) -> None:
    cli("firewall", "on")
    (home.path / ".dpc_access.json").write_text('{"compute": {\n"enabled": maybe}}')
    assert "line 2" in one_red_line(cli("firewall", "show"))
    checked = cli("doctor")
    assert checked.returncode == 1 and re.search(r"fail\s+access.*line 2", checked.stdout)


def test_models_list_and_pull(cli: Cli, home: Home) -> None:
    unfetched = cli("models", "list")
    assert "smollm2:135m" in unfetched.stdout and unfetched.returncode == 0
    assert "the first question fetches it (93 MB). Fetch it now: dpc-jupyter models pull" in unfetched.stderr
    no_model(home)
    missing = cli("models", "list")
    assert missing.returncode == 1 and "dpc-jupyter models pull" in missing.stderr
    write_providers(home)
    assert "smollm2:135m" in cli("models", "list").stdout
    home.models_folder.mkdir(0o700)
    os.link(weights(), home.models_folder / weights().name)
    pulled = cli("models", "pull")
    assert pulled.returncode == 0 and pulled.stdout.strip() == str(home.models_folder / weights().name)


def test_doctor_finds_each_fault_and_says_its_fix(cli: Cli, home: Home) -> None:
    fresh = cli("doctor")
    assert fresh.returncode == 0
    assert re.search(r"warn\s+identity.*`dpc-jupyter id`", fresh.stdout)
    assert re.search(r"warn\s+model .*\(embedded\) is not here yet.*\(93 MB\).*dpc-jupyter models pull", fresh.stdout)
    assert not home.path.exists()
    no_model(home)
    assert re.search(r"fail\s+engine.*dpc-jupyter models pull", cli("doctor").stdout)
    write_providers(home)
    cli("id")
    cli("firewall", "on")
    found = cli("doctor")
    assert found.returncode == 0, found.stdout
    for line in (r"ok\s+identity\s+dpc-node-", r"ok\s+files", r"ok\s+model\s+smollm2:135m", r"warn\s+access"):
        assert re.search(line, found.stdout), (line, found.stdout)
    (home.path / "providers.json").chmod(0o644)
    loose = cli("doctor")
    assert loose.returncode == 1
    assert f"chmod 600 {home.path / 'providers.json'}" in loose.stdout.replace("\n", "")
    (home.path / "providers.json").chmod(0o600)
    (home.path / "node.id").write_text("dpc-node-" + "0" * 32)
    damaged = cli("doctor")
    assert damaged.returncode == 1 and re.search(r"fail\s+identity", damaged.stdout)


def test_doctor_finds_a_node_id_that_nobody_can_have(cli: Cli, home: Home) -> None:
    cli("firewall", "on")
    cli("firewall", "allow", DAVE)
    document = json.loads((home.path / ".dpc_access.json").read_text())
    document["compute"]["allow_groups"] = ["friends"]
    document |= {"node_groups": {"friends": ["dpc-node-51d3..."]}, "nodes": {"dpc-node-9c11...": {}, "_note": "mine"}}
    (home.path / ".dpc_access.json").write_text(json.dumps(document))
    found = re.findall(
        r"warn +access +(\S+) can never be anybody: .*32 hex digits.*dpc-jupyter id", cli("doctor").stdout
    )
    assert found == ["dpc-node-51d3...", "dpc-node-9c11..."]


def test_help_lists_every_command(cli: Cli) -> None:
    shown = cli("--help").stdout
    for command in ("demo", "serve", "ask", "peers", "models", "usage", "firewall", "doctor", "id", "invite", "join"):
        assert re.search(rf"\b{command}\b", shown)
    assert "may ask" not in cli("peers", "--help").stdout, "it lists whom this machine has reached, and nobody else"


def test_text_of_a_peer_in_a_csv_is_no_command_and_no_formula() -> None:
    assert [_cell(text) for text in ("\x1b]0;owned\x07m", "=cmd|calc", "-1", "llama3:8b")] == [
        *("m", "'=cmd|calc", "'-1", "llama3:8b"),
    ]
    assert _cell(12) == 12
