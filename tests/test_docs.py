"""The documentation says what the code does: magics, commands, options, examples and messages that it names exist."""

from __future__ import annotations

import argparse
import ast
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from IPython.core.interactiveshell import InteractiveShell
from jupyter.kernel import Kernel
from running_host import weights
from typer.testing import CliRunner

import dpc_jupyter
from dpc_jupyter.backends.models import SMOLLM2
from dpc_jupyter.backends.providers import backends_from
from dpc_jupyter.cli import app
from dpc_jupyter.firewall import Rules

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PACKAGE = Path(dpc_jupyter.__file__).parent


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of a page in one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Every dpc-jupyter command in a page's consoles and sentences, as words."""
    text = page.read_text("utf-8")
    typed = [
        line[2:]
        for block in blocks(page, "console")
        for line in re.sub(r"\\\n", " ", block).splitlines()
        if line[:2] == "$ "
    ]
    typed += re.findall(r"`(dpc-jupyter [^`\n]*)`", text)
    for line in typed:
        words = shlex.split(line.split(" > ")[0].removesuffix("&"), comments=True)
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if words[:1] == ["dpc-jupyter"] and len(words) > 1:
            yield words[1:]


@functools.cache
def magics() -> dict[str, argparse.ArgumentParser | None]:
    """What the extension registers, each with its parser if it takes words."""
    shell = InteractiveShell()  # type: ignore[no-untyped-call]
    before = {name for kind in shell.magics_manager.magics.values() for name in kind}
    dpc_jupyter.load_ipython_extension(shell)
    found = {
        name: getattr(function, "parser", None)
        for kind in shell.magics_manager.magics.values()
        for name, function in kind.items()
        if name not in before
    }
    dpc_jupyter.unload_ipython_extension(shell)
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_command_on_a_page_exists_with_its_options(page: Path) -> None:
    for words in commands(page):
        command: Any = typer.main.get_command(app)
        while getattr(command, "commands", None):
            word = next((each for each in words if not each.startswith("-")), None)
            if word is None or word.isupper():
                break
            assert word in command.commands, f"{page.name}: no command {word} in {words}"
            words, command = words[words.index(word) + 1 :], command.commands[word]
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in known, f"{page.name}: {command.name} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_magic_on_a_page_exists_with_its_options(page: Path) -> None:
    text = page.read_text("utf-8")
    for name in set(re.findall(r"%{1,2}(dpc_\w+)", text)):
        assert name in magics(), f"{page.name}: there is no %{name}"
    lines = [line for block in blocks(page, "python") for line in block.splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]*%dpc_\w+[^`\n]*)`", text)]:
        if found := re.search(r"%{1,2}(dpc_\w+)\s+(.*)", line):
            parser = magics()[found[1]]
            known = set(parser._option_string_actions) if parser else set()
            for flag in re.findall(r"(?:^|\s)(--?[a-zA-Z][\w-]*)", found[2].split(" -- ")[0]):
                assert flag in known, f"{page.name}: %{found[1]} has no option {flag}"


def literals() -> Iterator[str]:
    """The text of every string in the package, without its placeholders, and every script of a widget."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "\0".join(
                    str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values
                ).replace("\0\0", "\0")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in [*PACKAGE.rglob("*.js"), *(ROOT / "labextension" / "src").rglob("*.ts*")]:
        yield path.read_text("utf-8")


def test_each_sentence_under_troubleshooting_is_one_that_the_code_says() -> None:
    said = "\n".join(literals())
    rows = re.findall(
        r"^\| (?!---|you read)(.*?) \| ", (DOCS / "how-to" / "troubleshooting.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 40
    unsaid = [
        f"{row}: {part}"
        for row in rows
        for part in re.split(r"\*[^*]+\*|…", row.removeprefix("Busy: ").removeprefix("Access denied: "))
        if part.strip(" .:,'") and part.strip() not in said and not row.startswith("Cell magic")  # IPython's own
    ]
    assert not unsaid, "\n".join(unsaid)


def test_the_examples_of_settings_are_ones_that_a_node_takes(tmp_path: Path) -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            document = json.loads(block)
            if "providers" in document:
                backends_from(document, tmp_path)
            elif document.keys() & {"hub", "stun", "turn", "lan"}:
                (tmp_path / "network.json").touch(0o600)
                (tmp_path / "network.json").write_text(block)
                shown = CliRunner().invoke(app, ["--home", str(tmp_path), "network"])
                assert shown.exit_code == 0, shown.output
            else:
                Rules.parse(block)


def test_the_reference_of_the_access_file_has_every_key() -> None:
    page = (DOCS / "reference" / "access-file.md").read_text("utf-8")
    node = "dpc-node-" + "0" * 32
    for document in (
        {"compute": {"?": 1}},
        {"compute": {"limits": {"?": 1}}},
        {"relay": {"?": 1}},
        {"nodes": {node: {"?": 1}}},
        {"compute": {"allow_groups": ["lab"]}, "groups": {"lab": {"?": 1}}},
    ):
        with pytest.raises(dpc_jupyter.DpcError) as refused:
            Rules.parse(json.dumps(document))
        for key in str(refused.value).rpartition("known: ")[2].split(", "):
            assert f"`{key}`" in page, key


def test_each_link_of_the_readme_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


class Reader:
    """Somebody who follows a tutorial to the letter: each terminal's commands, and the notebook's cells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = dict.fromkeys(("OLLAMA_HOST",), "127.0.0.1:1")
        self._environment = {**os.environ, **self._kept, "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython")}
        self._environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._owner = ""
        self._host: subprocess.Popen[str] | None = None
        self._kernel: Kernel | None = None
        self.invitation = ""

    def home(self, name: str) -> Path:
        """A home folder with the embedded model in it, so that nothing is fetched."""
        home = self._folder / name
        (home / "models").mkdir(0o700, parents=True)
        home.chmod(0o700)
        shutil.copy(weights(), home / "models" / SMOLLM2.file_name)
        return home

    def type(self, block: str) -> None:
        """Run a console's commands; one that names no home is the owner's."""
        home = self._owner
        for line in block.splitlines():
            command = line[2:]
            if command.startswith("export DPC_HOME="):
                home = command.partition("=")[2].replace("~", str(self._folder))
                self._owner = self._owner or home
            elif line.startswith("$ ") and not re.match(r"python3 -m venv|\. |pip |jupyter ", command):
                command = re.sub(r"dpc-invite:\S+", self.invitation, command)
                self._run(command, {**self._environment, "DPC_HOME": home})

    def _run(self, command: str, environment: dict[str, str]) -> None:
        if "dpc-jupyter serve" in command:
            self._host = subprocess.Popen(
                [*shlex.split(command), "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
            )
            assert self._host.stdout is not None
            assert self._host.stdout.readline().startswith("dpc://")
            return
        if command.startswith("rm "):
            self.stop()
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if done.stdout.startswith("dpc-invite:"):
            self.invitation = done.stdout.strip()

    def run(self, cell: str) -> str:
        """Run a cell; the sentence of its error, empty without one."""
        if self._kernel is None:
            self._kernel = Kernel({**self._environment, "DPC_HOME": str(self._folder / ".dpc")})
        cell = re.sub(r"dpc-invite:\S+", self.invitation, cell)
        story = "Tell a long story" in cell
        ran = self._kernel.run(cell, interrupt_when=(lambda ran: bool(ran.drawn)) if story else None)
        return "" if ran.error is None or story else ran.sentence

    def open_another_notebook(self) -> None:
        assert self._kernel is not None
        self._kernel.close()
        self._kernel = None

    def stop(self) -> None:
        if self._host is not None:
            self._host.terminate()
            self._host.communicate(timeout=20)
            self._host = None

    def close(self) -> None:
        self.stop()
        if self._kernel is not None:
            self._kernel.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("name", "homes"), [("first-answer", (".dpc", ".dpc-anna")), ("share-your-gpu", (".dpc-owner", ".dpc-guest"))]
)
def test_a_reader_who_follows_a_tutorial_gets_to_its_end(reader: Reader, name: str, homes: tuple[str, ...]) -> None:
    for home in homes:
        reader.home(home)
    text = (DOCS / "tutorial" / f"{name}.md").read_text("utf-8")
    refusals = []
    for language, block in re.findall(r"^```(console|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language == "console":
            reader.type(block)
        else:
            if "%load_ext" in block and "%dpc_host" in block:
                reader.open_another_notebook()
            refusals += [sentence] if (sentence := reader.run(block)) else []
    assert reader.invitation
    assert all(sentence in text for sentence in refusals)
    assert len(refusals) == (name == "first-answer")
