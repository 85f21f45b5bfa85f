from __future__ import annotations

import json

from running_host import FORBIDDEN, RunningHost

from dpc_jupyter.home import Home
from dpc_jupyter.identity import short
from dpc_jupyter.jupyter.notebook import UNANSWERED
from jupyter.conftest import StubHost
from jupyter.kernel import Kernel


def test_a_cell_asks_a_model_of_another_process_and_its_answer_streams_in(
    kernel: Kernel, real_host: RunningHost
) -> None:
    connected = kernel.ok(f"%dpc_connect {real_host.uri} --name anna")
    assert f"Connected to anna ({short(real_host.node_id)}) by TLS" in connected.stdout
    assert "anna lets you use: smollm2:135m." in connected.stdout
    kernel.ok("%dpc_host anna")
    kernel.ok("topic = 'the sky is blue'")
    ran = kernel.ok("%%dpc_ask -o answer --max-tokens 40 -t 0 --seed 7\nExplain in one sentence why {topic}.")
    answer = kernel.value("answer.text")
    assert len(ran.displays) == 1 and len(ran.drawn) > 3
    assert len(answer.split()) > 5 and ran.text.startswith(answer.strip()[:20])
    assert "text/markdown" not in ran.shown
    assert ran.text.splitlines()[-1].startswith("anna · smollm2:135m · 40 tokens · first after ")
    facts = ran.facts
    assert facts["host"] == real_host.node_id and facts["provider"] == "embedded"
    assert facts["model_digest"].startswith("sha256:")
    assert facts["options"] == {"temperature": 0.0, "max_tokens": 40, "seed": 7}
    assert facts["usage"]["response_tokens"] == 40 and facts["timings"]["first_token_s"] > 0
    assert "text" not in facts
    assert kernel.value("answer is _dpc, answer.host_name, answer.finish_reason") == "True anna length"


def test_a_model_that_is_not_allowed_is_refused_in_one_line(kernel: Kernel, real_host: RunningHost) -> None:
    kernel.ok(f"%dpc_connect {real_host.uri} --name anna")
    ran = kernel.run(f"%dpc_ask -H anna -m {FORBIDDEN} May I?")
    assert ran.status == "error" and ran.error is not None and ran.error["ename"] == "AccessDenied"
    assert ran.sentence == (
        f"Access denied: You are not authorized to request inference for model {FORBIDDEN}. "
        "anna lets you use: smollm2:135m."
    )
    assert ran.displays == {}
    assert kernel.value("_dpc.error") == ran.sentence
    kernel.ok("from dpc_jupyter import AccessDenied")
    caught = kernel.ok(
        f"try:\n    %dpc_ask -H anna -m {FORBIDDEN} May I?\nexcept AccessDenied as error:\n    print('caught', error)"
    )
    assert caught.stdout.startswith("caught Access denied")


def test_an_unknown_model_is_answered_with_those_of_the_host_that_was_asked(asking: Kernel) -> None:
    ran = asking.run("%dpc_ask -m stubb-1 Hello")
    assert ran.sentence == "Model 'stubb-1' not found at anna. Did you mean stub-1?"
    assert asking.value("_dpc.error") == ran.sentence
    assert asking.run("%dpc_ask -m gpt Hello").sentence.endswith("at anna. anna lets you use: stub-1, stub-2.")


def test_a_line_gives_its_answer_and_shows_it_once(asking: Kernel) -> None:
    bare = asking.ok("%dpc_ask Hello")
    assert len(bare.displays) == 1 and bare.value is None
    assert asking.ok("%%dpc_ask\nHello").value is None
    assigned = asking.ok("answer = %dpc_ask Is it fine?")
    assert len(assigned.displays) == 1
    assert asking.value("answer is _dpc, str(answer) == answer.text, answer.model") == "True True stub-1"
    assert (asking.ok("answer").value or "").startswith("Answer('stub stub")


def test_an_address_may_be_asked_at_once(kernel: Kernel, stub_host: StubHost) -> None:
    kernel.ok(f"address = {stub_host.uri!r}")
    assert kernel.ok("%dpc_ask -H {address} Hello").facts["host"] == stub_host.node.service.identity.node_id
    kernel.ok("%dpc_disconnect stub-host")
    kernel.ok(f"%dpc_host {stub_host.uri}")
    kernel.ok("%dpc_ask Hello")
    other = stub_host.uri[:-4] + "0000"
    assert "Nothing was sent" in kernel.run(f"%dpc_ask -H {other} Hello").sentence
    assert "Nothing was sent" in kernel.value("_dpc.error")


def test_an_option_out_of_its_range_is_refused_and_nothing_is_sent(asking: Kernel, stub_host: StubHost) -> None:
    assert "from 0 to 2: 9.0 is out of range" in asking.run("%dpc_ask -t 9 Hello").sentence
    assert "from 1 to 32768: -5 is out of range" in asking.run("%dpc_ask --max-tokens -5 Hello").sentence
    assert stub_host.engine.seen == []


def test_one_kernel_asks_itself(kernel: Kernel, asker_home: Home, real_host: RunningHost) -> None:
    (asker_home.path / "providers.json").write_bytes((real_host.home.path / "providers.json").read_bytes())
    ran = kernel.ok("%dpc_ask --max-tokens 8 Say hello.")
    assert ran.text.splitlines()[-1].startswith("this machine · smollm2:135m · ")
    assert "smollm2:135m" in kernel.ok("%dpc_models").text


def test_two_notebooks_have_each_their_own_host(asking: Kernel, environment: dict[str, str]) -> None:
    other = Kernel(environment)
    try:
        assert other.ok("%dpc_host").stdout == "This notebook asks this machine.\n"
        assert asking.ok("%dpc_host").stdout == "This notebook asks anna.\n"
        other.ok("%dpc_connect anna")
        other.ok("%dpc_ask -H anna Hello")
        asking.ok("%dpc_ask Hello")
    finally:
        other.close()


def test_the_prompt_takes_variables_and_nothing_else(asking: Kernel, stub_host: StubHost) -> None:
    asking.ok("game = 'chess'; x = 1; a = 2; b = 3; i = 4; evil = '{game}'")
    typed_and_asked = {
        "What's {game}? It's \"fine\".": "What's chess? It's \"fine\".",
        "{unknown} {} {{x}} {x!r} {x.y} {0} {exit}": "{unknown} {} {{x}} {x!r} {x.y} {0} {exit}",
        '{"x": 1, "y": {"game": 2}}': '{"x": 1, "y": {"game": 2}}',
        r"\frac{a}{b} and $x_{i}^{a}$, but {a} for \$5": r"\frac{a}{b} and $x_{i}^{a}$, but 2 for \$5",
        "file_{i}.csv costs $5, {game} $6": "file_4.csv costs $5, chess $6",
        "{evil}": "{game}",
        "$game": "$game",
        "a -t 0 b": "a -t 0 b",
    }
    for typed, asked in typed_and_asked.items():
        for cell in (f"%dpc_ask {typed}", f"%%dpc_ask\n{typed}\n"):
            asking.ok(cell)
            assert stub_host.engine.seen[-1].messages[-1].content == asked


def test_a_question_may_end_with_a_question_mark(asking: Kernel, stub_host: StubHost) -> None:
    asking.ok("%dpc_ask --raw What's a Kuramoto model?")
    asking.ok("for name in ('anna', 'bob'):\n    %dpc_ask Who is {name}?")
    asked = [generation.messages[-1].content for generation in stub_host.engine.seen]
    assert asked == ["What's a Kuramoto model?", "Who is anna?", "Who is bob?"]


def test_options_reach_the_host_as_typed(asking: Kernel, stub_host: StubHost) -> None:
    asking.ok("limit = 12")
    asking.ok('%dpc_ask -t0.5 --max-tokens={limit} --seed 3 -s "Don\'t rhyme." -m stub-2 -p stub -- -H as text')
    seen = stub_host.engine.seen[-1]
    assert (seen.model, seen.options.temperature, seen.options.max_tokens, seen.options.seed) == ("stub-2", 0.5, 12, 3)
    assert [(turn.role, turn.content) for turn in seen.messages] == [
        ("system", "Don't rhyme."),
        ("user", "-H as text"),
    ]


def test_a_conversation_remembers_the_text_of_an_answer_that_was_cut_off(asking: Kernel, stub_host: StubHost) -> None:
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.hold)
    stopped = asking.run("%dpc_ask -c talk -s Briefly. One?", interrupt_when=lambda ran: "stub" in str(ran.displays))
    assert stopped.sentence.startswith("Stopped") and stopped.stdout == ""
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.gate.set)
    stub_host.engine.error = RuntimeError("broken")
    asking.run("%dpc_ask -c talk Two?")
    stub_host.engine.error = None
    asking.ok("%dpc_ask -c talk Three?")
    assert [(turn.role, turn.content) for turn in stub_host.engine.seen[-1].messages] == [
        ("system", "Briefly."),
        ("user", "One?"),
        ("assistant", "stub "),
        ("user", "Two?"),
        ("assistant", "stub " * 4),
        ("user", "Three?"),
    ]


def test_a_conversation_remembers_what_was_answered(asking: Kernel, stub_host: StubHost) -> None:
    asking.ok("%dpc_ask -c talk -s Briefly. One?")
    assert asking.run("%dpc_ask -c talk -m missing Two?").stdout == f"{UNANSWERED}\n"
    asking.ok("%dpc_ask -c talk Three?")
    asking.ok("%dpc_ask Alone?")
    answer = "stub " * 4
    assert [(turn.role, turn.content) for turn in stub_host.engine.seen[-2].messages] == [
        ("system", "Briefly."),
        ("user", "One?"),
        ("assistant", answer),
        ("user", "Three?"),
    ]
    assert len(stub_host.engine.seen[-1].messages) == 1
    assert "talk" in asking.ok("%dpc_conversation").text
    assert "Three?" in asking.ok("%dpc_conversation show talk").text
    asking.ok("%dpc_conversation clear talk")
    assert asking.ok("%dpc_conversation").stdout.startswith("No conversation yet")
    assert asking.run("%dpc_conversation show talk").sentence.startswith("No conversation is called talk")


def test_raw_shows_the_text_and_nothing_else(asking: Kernel) -> None:
    ran = asking.ok("%dpc_ask --raw Hello")
    assert ran.shown == {"text/plain": "stub " * 4}


def test_a_hostile_answer_is_shown_and_does_nothing(asking: Kernel, stub_host: StubHost) -> None:
    stub_host.engine.texts = (
        "<img src=x onerror=alert(1)> ![p](https://evil.example/p.png) ",
        "[c](javascript:alert(1)) \x1b]8;;http://evil.example\x07\x1b",
        "[31mred \u202egnirts",
    )
    ran = asking.ok("%dpc_ask Hello")
    page = "".join(drawn["data"]["text/html"] for drawn in ran.drawn)
    assert "<img" not in page and 'javascript:alert(1)"' not in page and "src=" not in page.replace("src=x", "")
    for drawn in ran.drawn:
        assert not set(json.dumps(drawn["data"], ensure_ascii=False)) & {"\x1b", "\x07", "\u202e"}
    assert asking.value("'\\x1b' in _dpc.text") == "True"


def test_a_picture_is_read_here_and_sent_as_bytes(asking: Kernel, asker_home: Home) -> None:
    picture, text = asker_home.path / "p.png", asker_home.path / "p.txt"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 100)
    text.write_text("no picture")
    # The stub takes no pictures, and its host says so: the bytes have arrived.
    assert "does not take images" in asking.run(f"%dpc_ask --image {picture} What is it?").sentence
    assert "is no PNG, JPEG, WebP or GIF" in asking.run(f"%dpc_ask --image {text} What is it?").sentence
    assert "cannot be read" in asking.run("%dpc_ask --image /nowhere.png What is it?").sentence
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 1_000_000)
    assert "make the picture smaller" in asking.run(f"%dpc_ask --image {picture} What is it?").sentence


def test_mistakes_are_one_line_that_names_the_fix(kernel: Kernel) -> None:
    mistakes = {
        "%dpc_ask": "write a prompt behind %dpc_ask",
        "%%dpc_ask\n\n": "write a prompt behind %dpc_ask",
        "%dpc_ask --hots anna Hello": "did you mean --host?",
        "%dpc_ask --temp 1 Hello": "did you mean --temperature?",
        "%dpc_ask --bogus 1 Hello": "--bogus is no option: there are ",
        "%dpc_ask -m gpt-9 Hello": "Model 'gpt-9' not found. %dpc_models shows what embedded has.",
        "%dpc_ask -t hot Hello": "invalid float value: 'hot'",
        "%dpc_ask -H": "-H needs a value",
        "%%dpc_ask anna\nHello": "begins on the next line",
        "%dpc_ask -o 1x Hello": "cannot be a variable",
        "%dpc_ask -H carol Hello": "Nobody is known as carol. Connect first: %dpc_connect dpc://...",
        "%dpc_connect": "%dpc_connect dpc://...",
        "%dpc_connect dpc://nowhere": "An address looks like dpc://host:8889?node_id=",
        f"%dpc_connect dpc://127.0.0.1:1?node_id=dpc-node-{'0' * 32}": "Is the host started",
        "%dpc_connect 'anna": "A quote is not closed",
        "%dpc_host carol": "Nobody is known as carol",
        "%dpc_firewall zoe": "choose from",
        "%dpc_firewall allow": "Who?",
        "%dpc_firewall explain zoe": "No node is called 'zoe' here",
        "%dpc_disconnect zoe": "Nobody is known as zoe",
        "%dpc_start anna": "one word too many",
    }
    for cell, fix in mistakes.items():
        ran = kernel.run(cell)
        assert ran.status == "error", cell
        assert fix in ran.sentence, cell


def test_a_failed_question_leaves_its_answer_object(kernel: Kernel, asking: Kernel, stub_host: StubHost) -> None:
    stub_host.engine.error = RuntimeError("the prompt was secret")
    ran = asking.run("%dpc_ask -o kept Hello")
    assert "secret" not in ran.sentence
    assert ran.text.startswith("stub stub stub stub") and "stopped early" in ran.text
    assert asking.value("kept.text, kept.finish_reason, kept is _dpc") == f"{'stub ' * 4} error True"
    assert asking.value("kept.error") == ran.sentence


def test_a_question_that_could_not_be_sent_leaves_one_too(kernel: Kernel) -> None:
    ran = kernel.run("%dpc_ask -H carol -o kept Hello")
    assert ran.displays == {}
    assert kernel.value("kept.error") == ran.sentence
    assert kernel.value("kept.host, kept.text, kept.finish_reason, kept is _dpc") == "carol  error True"


def test_help_teaches_with_examples(kernel: Kernel) -> None:
    text = kernel.value("get_ipython().find_line_magic('dpc_ask').__doc__")
    for taught in ("%%dpc_ask --host anna", "--max-tokens", "-c NAME", "{game}", "What's a Kuramoto model?"):
        assert taught in text


def test_python_raises_normally(kernel: Kernel) -> None:
    ran = kernel.run(
        "from dpc_jupyter import BackgroundNode\nnode = BackgroundNode()\nnode.start()\n"
        "try:\n    node.send_ai_query('Hello', 'carol')\nfinally:\n    node.stop()"
    )
    assert ran.error is not None and ran.error["ename"] == "PeerNotConnected" and len(ran.error["traceback"]) > 1
