from __future__ import annotations

import json
import re
import time
from pathlib import Path

import nbformat
import psutil
from running_host import RunningHost

from dpc_jupyter import firewall
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.cli.demo.notebook import notebook_path
from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.thread import BackgroundNode
from jupyter.conftest import StubHost
from jupyter.kernel import Kernel


def test_a_node_that_only_asks_does_not_listen_and_sharing_gives_an_address(
    kernel: Kernel, asker: Identity, asker_home: Home
) -> None:
    assert kernel.ok("%dpc_status").stdout.startswith("No node runs")
    first = kernel.ok("%dpc_start --name bob").stdout
    assert first.startswith(f"bob is {asker.node_id}.\nSharing is off")
    assert "dpc://" not in first
    assert kernel.ok("%dpc_start").stdout == first
    shared = kernel.ok("%dpc_start --share --listen 127.0.0.1 --port 0").stdout
    assert "Nobody is let in yet: %dpc_invite NAME" in shared
    assert f"?node_id={asker.node_id}" in shared.splitlines()[-1]
    assert kernel.ok("%dpc_start --share").stdout == shared
    assert json.loads((asker_home.path / ".dpc_access.json").read_text())["compute"]["enabled"] is True
    assert kernel.ok("%dpc_stop").stdout == "The node is stopped.\n"
    assert kernel.ok("%dpc_stop").stdout == "No node runs.\n"
    assert kernel.ok("%dpc_start").status == "ok"


def test_the_way_of_a_link_is_told_and_what_else_was_tried_only_where_something_was(
    kernel: Kernel, asker_home: Home, stub_host: StubHost
) -> None:
    first = kernel.ok(f"%dpc_connect {stub_host.uri} --name anna").stdout
    assert re.match(r"Connected to anna \(\S+\) by TLS at 127\.0\.0\.1:\d+\.\nanna lets you use", first)
    assert "is linked" not in kernel.ok("%dpc_peers").stdout + kernel.ok("%dpc_status").stdout
    kernel.ok("%dpc_stop")
    node_id = stub_host.uri.rpartition("=")[2]
    old = f"dpc://127.0.0.1:1?node_id={node_id}"
    asker_home.edit_peers(lambda known: {node_id: {**known[node_id], "uri": old, "also": [stub_host.uri]}})
    tried = "Tried as well: TLS at 127.0.0.1:1 (Nothing listens at 127.0.0.1:1).\n"
    assert f".\n{tried}anna lets you use" in kernel.ok("%dpc_connect anna").stdout
    for magic in ("%dpc_peers", "%dpc_status"):
        assert re.search(rf"anna is linked by TLS at \S+\. {re.escape(tried)}$", kernel.ok(magic).stdout)


def test_the_firewall_is_edited_and_explained_from_a_cell(kernel: Kernel) -> None:
    node_id = "dpc-node-" + "d" * 32
    assert "Sharing is off" in kernel.ok("%dpc_firewall").stdout
    kernel.ok("%dpc_firewall on")
    allowed = kernel.ok(f"%dpc_firewall allow {node_id} --name dave --model llama3.1:8b --expires 7d")
    assert re.fullmatch(r"dave may use llama3\.1:8b, until \S+\.\nyes: line .*\n", allowed.stdout)
    assert kernel.ok("%dpc_firewall explain dave llama3.1:8b").stdout.startswith("yes: ")
    refused = kernel.ok("%dpc_firewall explain dave llama3-70b").stdout
    assert refused.startswith("no: line ") and "allowed_models of dave: llama3.1:8b" in refused
    shown = kernel.ok("%dpc_firewall show")
    assert "dave" in shown.text and "llama3.1:8b" in shown.text
    kernel.ok("%dpc_start")
    added = kernel.ok("%dpc_firewall allow dave llama3-70b").stdout
    assert "may use llama3.1:8b, llama3-70b" in added and "%dpc_firewall deny dave MODEL takes one away." in added
    assert kernel.ok("%dpc_firewall explain dave llama3-70b").stdout.startswith("yes: ")
    assert kernel.ok("%dpc_firewall deny dave").stdout.startswith("no: ")
    limited = kernel.ok("%dpc_firewall allow dave --limit running=1 --limit tokens_per_day=500").stdout
    assert "with running=1, tokens_per_day=500." in limited
    assert "running=1, tokens_per_day=500" in kernel.ok("%dpc_firewall").text
    for wrong in ("running", "running=", "runing=2", "running=-1", "running=0"):
        assert kernel.run(f"%dpc_firewall allow dave --limit {wrong}").status == "error"
    doubted = kernel.ok("%dpc_firewall allow dave lama3 --group lab").stdout.splitlines()
    assert re.fullmatch(r"No engine here has lama3 now; (did you mean|there is: ).+", doubted[-2])
    assert doubted[-1] == "Group lab is new."
    assert kernel.ok("%dpc_firewall pause").stdout.startswith("Sharing is paused")
    assert "Sharing is paused" in kernel.ok("%dpc_status").stdout
    assert kernel.ok("%dpc_firewall").stdout.startswith("Sharing is paused")
    assert kernel.ok("%dpc_firewall resume").stdout == "Sharing is on.\n"
    assert kernel.ok("%dpc_firewall relay on").stdout.startswith("It relays between those that you let in")
    assert "It relays between" in kernel.ok("%dpc_firewall").stdout
    assert kernel.ok("%dpc_firewall relay off").stdout.startswith("It relays for nobody. %dpc_firewall relay on")
    assert kernel.run("%dpc_firewall relay").sentence.startswith("On or off?")
    assert kernel.ok("%dpc_firewall off").stdout == "Sharing is off.\n"
    assert kernel.ok("%dpc_firewall pending").stdout == "Nobody has asked and been refused.\n"


def test_sharing_is_paused_for_the_whole_home_without_a_node_too(kernel: Kernel, asker_home: Home) -> None:
    node_id = "dpc-node-" + "d" * 32
    kernel.ok("%dpc_firewall on")
    kernel.ok("%dpc_firewall pause")
    assert asker_home.read_access().paused
    asker_home.edit_access(lambda document: firewall.allow(document, node_id, name="dave", expires="2020-01-31"))
    assert "ended 2020-01-31" in kernel.ok("%dpc_firewall").text
    assert "Let in: dave (ended 2020-01-31)." in kernel.ok("%dpc_start").stdout
    assert kernel.ok("%dpc_firewall on").stdout.startswith("Sharing is paused"), "one word does one thing"
    kernel.ok("%dpc_firewall resume")
    assert not asker_home.read_access().paused


def test_the_firewall_takes_the_notebooks_variables(kernel: Kernel) -> None:
    kernel.ok("dave_id = 'dpc-node-' + 'd' * 32")
    said = kernel.ok("%dpc_firewall allow {dave_id} --name dave --model llama3.1:8b --model {no_variable}").stdout
    assert said.startswith("dave may use llama3.1:8b, {no_variable} once sharing is on, without an end.")
    kernel.ok("model = 'qwen3:8b'\n%dpc_firewall allow dave {model}")
    assert "qwen3:8b" in kernel.ok("%dpc_firewall").text
    assert kernel.ok("%dpc_firewall explain {dave_id} {model}").stdout.startswith("no: line 5, compute.enabled")


def test_an_invitation_is_made_listed_and_taken_back_and_its_cell_says_who_came(
    kernel: Kernel, asker: Identity, tmp_path: Path
) -> None:
    assert "Run %dpc_start --share first" in kernel.run("%dpc_invite anna").sentence
    assert "Whom? %dpc_invite NAME" in kernel.run("%dpc_invite").sentence
    assert kernel.ok("%dpc_invite --list").stdout == "There are no invitations: %dpc_invite NAME\n"
    kernel.ok("%dpc_start --share --listen 127.0.0.1 --port 0\nwho = 'anna'")
    made = kernel.ok("%dpc_invite {who} --models llama3.1:8b,qwen3:8b --expires 7d")
    first, line, terms, where, *doubts = made.stdout.splitlines()
    assert re.fullmatch(r"Send this line to anna and to nobody else\. It works once, until .* UTC:", first)
    assert terms == "anna may then use llama3.1:8b, qwen3:8b, for 7d from joining." and len(doubts) == 2
    assert where.startswith("The line works on this machine alone")
    assert made.text == "Nobody has joined by it yet."
    listed = kernel.ok("%dpc_invite --list").text
    assert "anna" in listed and "open" in listed and line not in listed
    joiner = BackgroundNode(Home(tmp_path / "joiner"), name="annas-laptop", registry=Registry([]))
    try:
        joiner.start()
        joined = joiner.run(joiner.service.join(line))
        assert joined.known_as == "anna" and joined.host.node_id == asker.node_id
        while (message := kernel.next())["header"]["msg_type"] != "update_display_data":
            pass
        assert message["content"]["transient"]["display_id"] in made.displays
        said = message["content"]["data"]["text/plain"]
        assert said == f"anna has joined: {joiner.service.identity.node_id}."
    finally:
        joiner.stop()
    assert "used by anna" in kernel.ok("%dpc_invite --list").text
    assert "all models, for 7d from joining." in kernel.ok("%dpc_invite bob --valid 12h").stdout
    assert "prompt" not in kernel.run("%dpc_invite --hlp").sentence
    assert kernel.ok("%dpc_invite --revoke bob").stdout == "The invitation for bob is taken back.\n"
    assert "No open invitation is for 'bob'" in kernel.run("%dpc_invite --revoke bob").sentence
    kernel.ok("%dpc_firewall off")
    assert "Sharing is off: who joins can ask once it is on." in kernel.ok("%dpc_invite carol").stdout


def test_a_line_is_joined_by_as_it_was_pasted(kernel: Kernel, stub_host: StubHost, asker: Identity) -> None:
    service = stub_host.node.service
    service.access.deny("tester")
    made = service.invitations.make("anna", models=("stub-1",))
    assert "By which invitation?" in kernel.run("%dpc_join").sentence
    broken = kernel.run(f"%dpc_join {str(made)[:40]}").sentence
    assert broken.endswith("Copy the whole line, from dpc-invite: to its end, or ask for a new one.")
    half = len(str(made)) // 2
    said = kernel.ok(f"%%dpc_join --name lab\n> {str(made)[:half]}\n> {str(made)[half:]}\n").stdout.splitlines()
    way = f"by TLS at {stub_host.uri[6:].partition('?')[0]}"
    assert said == [
        f"Joined lab ({service.identity.node_id}) {way}: its owner calls you tester.",
        "lab lets you use: stub-1.",
        "Ask it: %dpc_ask -H lab Hello",
        "Or make it this notebook's host: %dpc_host lab",
    ]
    assert kernel.ok("%dpc_ask -H lab Hello").status == "ok"
    kernel.ok(f"line = {str(made)!r}")
    for again in (
        f'%dpc_join "{made}"',
        "%dpc_join {line}",
        f"%dpc_join {made}  # from the mail",
        f"%dpc_connect {made}",
    ):
        assert kernel.ok(again).stdout.splitlines() == said
    assert kernel.ok(f"%dpc_host {made} stub-1").stdout.splitlines() == [
        *said[:3],
        "This notebook asks lab for stub-1.",
    ]
    service.access.deny(asker.node_id)
    assert "This invitation cannot be used" in kernel.run(f"%dpc_join {made}").sentence


def test_links_models_status_and_usage_are_shown(kernel: Kernel, real_host: RunningHost) -> None:
    kernel.ok(f"%dpc_connect {real_host.uri} --name anna")
    assert "anna" in kernel.ok("%dpc_peers").text and "to it by TLS at 127.0.0.1:" in kernel.ok("%dpc_peers").text
    models = kernel.ok("%dpc_models anna").text
    assert "smollm2:135m" in models and "private" not in models
    kernel.ok("%dpc_ask -H anna --max-tokens 4 Hello")
    assert "anna" in kernel.ok("%dpc_usage").text and "smollm2:135m" in kernel.ok("%dpc_usage").text
    kernel.run("%dpc_ask -H anna -m other Hello")
    counted = [line.split() for line in kernel.ok("%dpc_usage").text.splitlines()]
    assert [line[2:5] for line in counted[1:]] == [["other", "0", "1"], ["smollm2:135m", "1", "0"]]
    assert "anna" in kernel.ok("%dpc_status").text
    assert kernel.ok("%dpc_disconnect anna").stdout == "Disconnected from anna.\n"
    assert kernel.ok("%dpc_peers").stdout.startswith("Nobody is linked")
    kernel.ok("%dpc_ask -H anna --max-tokens 4 Hello")
    assert "anna" in kernel.ok("%dpc_peers").text


def test_one_who_is_not_let_in_is_told_what_to_send(stub_host: StubHost, kernel: Kernel, asker: Identity) -> None:
    stub_host.node.service.access.deny(asker.node_id)
    said = kernel.ok(f"%dpc_connect {stub_host.uri} --name anna").stdout
    assert f"anna has not let you in yet. Send its owner your node id: {asker.node_id}" in said
    assert kernel.run("%dpc_ask -H anna Hello").sentence.startswith("Access denied")
    for _ in range(50):  # it is written in the background
        if stub_host.node.service.access.pending():
            break
        time.sleep(0.1)
    assert asker.node_id in stub_host.node.service.access.pending()


def test_a_hostile_peer_name_and_model_name_are_shown_harmless(stub_host: StubHost, kernel: Kernel) -> None:
    stub_host.engine.names = ("<img src=x onerror=alert(1)>\x1b[31m",)
    said = kernel.ok(f"%dpc_connect {stub_host.uri} --name 'a<b>c'").stdout
    assert "\x1b" not in said and "\x07" not in said
    shown = kernel.ok("%dpc_models a<b>c").shown
    assert "<img" not in shown["text/html"] and "\x1b" not in shown["text/plain"]


def test_loading_costs_nothing_that_is_not_used_and_unloading_stops_the_node(kernel: Kernel) -> None:
    heavy = "[m for m in ('httpx', 'ollama', 'xllamacpp', 'nh3', 'aiortc', 'markdown_it', 'typer') if m in sys.modules]"
    kernel.ok("import sys")
    assert kernel.value(heavy) == "[]"
    kernel.ok("%dpc_start")
    assert kernel.value(heavy) == "[]"
    kernel.ok("import threading")
    assert kernel.value("any(t.name == 'dpc-node' for t in threading.enumerate())") == "True"
    kernel.ok("%unload_ext dpc_jupyter")
    assert kernel.value("any(t.name == 'dpc-node' for t in threading.enumerate())") == "False"
    kernel.ok("%load_ext dpc_jupyter")
    kernel.ok("%dpc_start")
    kernel.ok("%reload_ext dpc_jupyter")
    assert kernel.ok("%dpc_status").stdout.startswith("No node runs")


def test_a_kernel_gains_at_most_forty_megabytes_by_loading_starting_and_asking(
    kernel: Kernel, real_host: RunningHost
) -> None:
    before = psutil.Process(kernel.pid).memory_info().rss - kernel.loaded_bytes
    kernel.ok(f"%dpc_connect {real_host.uri} --name anna")
    kernel.ok("%dpc_ask -H anna --max-tokens 16 Hello")
    assert psutil.Process(kernel.pid).memory_info().rss - before < 40 * 2**20


def test_python_code_beside_the_magics_blocks_or_awaits_on_the_same_node(
    kernel: Kernel, real_host: RunningHost
) -> None:
    kernel.ok(f"%dpc_connect {real_host.uri} --name anna")
    kernel.ok("from dpc_jupyter import current_node\nask = dict(compute_host='anna', options={'max_tokens': 4})")
    waited = kernel.ok("print(current_node().send_ai_query('Hello', **ask).usage.response_tokens)")
    awaited = kernel.ok("print((await current_node().aio.send_ai_query('Hello', **ask)).usage.response_tokens)")
    assert waited.stdout == awaited.stdout == "4\n"


def test_no_magic_evaluates_what_stands_in_its_line(kernel: Kernel) -> None:
    kernel.ok("import os")
    hostile = "{os.environ.update(EVALUATED='1')}"
    for magic in ("host", "models", "disconnect", "connect", "start --name", "firewall allow", "usage --days", "stop"):
        kernel.run(f"%dpc_{magic} {hostile}")
    for magic in ("peers", "status", "conversation show", "ask -H nobody"):
        kernel.run(f"%dpc_{magic} {hostile}")
    assert kernel.ok("print('EVALUATED' in os.environ)").stdout == "False\n"


def test_an_address_may_stand_in_a_variable(kernel: Kernel) -> None:
    kernel.ok("address = 'dpc://nowhere'")
    assert "'dpc://nowhere' is no address" in kernel.run("%dpc_connect {address}").sentence


def test_the_quickstart_without_a_host_says_what_to_put_where(kernel: Kernel) -> None:
    cells = nbformat.read(notebook_path(), as_version=4).cells
    (connect,) = [cell.source for cell in cells if "%dpc_connect" in cell.source]
    kernel.ok("import os; os.environ.pop('DPC_DEMO_HOST', None)")
    assert kernel.run(connect).sentence == (
        "{address} is empty: put the address into it that the host's owner gives you."
    )


def test_a_line_may_end_in_a_comment_and_a_known_host_is_linked_again(kernel: Kernel, real_host: RunningHost) -> None:
    kernel.ok(f"%dpc_connect {real_host.uri} --name anna  # that's what the host's owner gave me")
    kernel.ok("%dpc_disconnect anna")
    assert kernel.ok("%dpc_host anna  # from now on").stdout == "This notebook asks anna.\n"
    assert "anna" in kernel.ok("%dpc_peers").text
