"""``%dpc_ask`` and ``%%dpc_ask``: a cell asks a model, and the answer streams into it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, needs_local_scope, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from dpc_jupyter.jupyter.drawing.one_line import UsageError, one_line
from dpc_jupyter.jupyter.drawing.tables import show_table
from dpc_jupyter.jupyter.magics.arguments import fill_in, parse, parse_leading
from dpc_jupyter.jupyter.notebook import UNANSWERED, Conversation, Notebook, turn_of
from dpc_jupyter.protocol.messages import ChatMessage, Image
from dpc_jupyter.sanitize import label
from dpc_jupyter.wording import UNFINISHED_HEAD, read_image, sampling, unfinished_rows

if TYPE_CHECKING:
    from dpc_jupyter.jupyter.streaming import Drawn, Face
    from dpc_jupyter.node.asking import Answer, UnfinishedRequest

LAST = "_dpc"


@magics_class
class AskMagics(Magics):
    """Asking, and the conversations that asking keeps."""

    def __init__(self, shell: InteractiveShell, notebook: Notebook) -> None:
        super().__init__(shell)
        self._shell = shell
        self._notebook = notebook

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    @one_line
    @magic_arguments()
    @argument("-H", "--host", help="a peer's name, node id or dpc:// address, or local; default: what %%dpc_host says")
    @argument("-m", "--model", help="model; default: the first one that the host lets you use")
    @argument("-p", "--provider", help="which of the host's engines, by its alias")
    @argument("-s", "--system", help="system prompt, in quotes")
    @argument("-t", "--temperature", type=float, help="0 (the likeliest word each time) to 2")
    @argument("--max-tokens", type=int, metavar="N", help="longest answer, 1 to 32768; default: 2048")
    @argument("--seed", type=int, metavar="N", help="same number, same answer, where the engine can; from 0")
    @argument("--timeout", type=float, metavar="SECONDS", help="longest silence, 60 by default; time in line is free")
    @argument("-c", "--conversation", metavar="NAME", help="go on from what was said under this name, and remember")
    @argument("-o", "--output", metavar="VARIABLE", help="keep the Answer under this name too")
    @argument("--raw", action="store_true", help="show plain text and nothing else")
    @argument("--image", metavar="FILE", action="append", help="a picture of yours for the model; may be repeated")
    def dpc_ask(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Ask a model, here or on a peer's machine; the answer streams into the cell.

        Examples::

            %dpc_ask What's a Kuramoto model?

            answer = %dpc_ask -H dpc://10.0.0.7:8889?node_id=dpc-node-... Why?

            %%dpc_ask --host anna --model llama3-70b -t 0.2 -o ideas
            Give three quest ideas for {game}, one line each.

        {game} takes the notebook's variable; an unknown name, other braces and LaTeX stay as typed.
        The Answer (text, model, host, usage, timings, error) is returned, and kept as _dpc, also when the
        request failed or was stopped. To stop, interrupt the kernel. A prompt that begins with a dash goes
        behind --.
        """
        variables = {**self._notebook.variables, **(local_ns or {})}

        def fill(text: str) -> str:
            return fill_in(text, variables, self._shell)

        options, rest = parse_leading(self, "dpc_ask", line, fill)
        if cell is not None and rest:
            raise UsageError(f"{label(rest)!r} is no option: the prompt of %%dpc_ask begins on the next line.")
        prompt = fill(rest if cell is None else cell).strip()
        if not prompt and not options.image:
            raise UsageError("Nothing is asked: write a prompt behind %dpc_ask, or below %%dpc_ask.")
        _check_variable(options.output)
        return self._ask(prompt, options)

    def _ask(self, prompt: str, options: Any) -> Answer:
        from dpc_jupyter.jupyter.streaming import ask

        images = [read_image(Path(name)) for name in options.image or ()]
        talk = self._notebook.conversations.get(options.conversation, Conversation())
        system = options.system or talk.system
        typed = sampling(temperature=options.temperature, max_tokens=options.max_tokens, seed=options.seed)
        drawn = ask(
            self._notebook.node(),
            self._face(raw=options.raw),
            options.host or self._notebook.host,
            prompt=prompt,
            model=options.model or (None if options.host else self._notebook.model),
            provider=options.provider,
            system=system,
            messages=talk.turns,
            images=images,
            options=typed,
            timeout_s=options.timeout,
        )
        answer = drawn[0]
        if options.conversation:
            asked = ChatMessage("user", prompt, tuple(Image(**image) for image in images))  # type: ignore[arg-type]
            if kept := turn_of(asked, answer):
                self._notebook.conversations[options.conversation] = Conversation(system, (*talk.turns, *kept))
            else:
                print(UNANSWERED)
        return self._kept(drawn, options.output)

    def _face(self, *, raw: bool) -> Face:
        from dpc_jupyter.jupyter.drawing.display import CellAnswer
        from dpc_jupyter.jupyter.streaming import TerminalFace
        from dpc_jupyter.terminal import TerminalAnswer

        in_kernel = getattr(self._shell, "kernel", None) is not None
        return CellAnswer(raw=raw) if in_kernel else TerminalFace(TerminalAnswer(sys.stdout, quiet=raw))

    def _kept(self, drawn: Drawn, output: str | None) -> Answer:
        """The answer, in the notebook's variables from now on; raises what has ended it."""
        answer, failure = drawn
        for name in {LAST, output or LAST}:
            self._notebook.variables[name] = answer
        self._notebook.drawn = (answer, self._shell.execution_count)
        if failure is not None:
            raise failure
        return answer

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("action", nargs="?", choices=("list", "collect"), default="list")
    @argument("request", nargs="?", metavar="id", help="which one; not needed where there is one alone")
    @argument("-o", "--output", metavar="VARIABLE", help="keep the Answer under this name too")
    @argument("--raw", action="store_true", help="show plain text and nothing else")
    def dpc_pending(self, line: str) -> Any:
        """List answers that a kernel asked for and did not live to show, and collect them.

        Running the same cell again collects its answer, too, and asks nothing twice.

        Examples::

            %dpc_pending
            %dpc_pending collect
            %dpc_pending collect 0d7c...-1 -o ideas
        """
        wanted = parse(self, "dpc_pending", line)
        _check_variable(wanted.output)
        node = self._notebook.node()
        left = node.unfinished()
        if wanted.action == "collect":
            from dpc_jupyter.jupyter.streaming import collect

            which = _which(left, wanted.request)
            return self._kept(collect(node, self._face(raw=wanted.raw), which), wanted.output)
        if not left:
            print("Nothing is left to collect: every answer that was asked for here has ended, or was never begun.")
            return None
        show_table(UNFINISHED_HEAD, unfinished_rows(left, time.time()))
        print("Run its cell again to get the answer, or: %dpc_pending collect ID. Hosts keep an answer for 10 minutes.")
        return None

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("action", nargs="?", choices=("list", "show", "clear"), default="list")
    @argument("conversation", nargs="?", help="which conversation; clear without a name forgets all")
    def dpc_conversation(self, line: str) -> None:
        """List, show or forget what ``%dpc_ask -c NAME`` remembers."""
        wanted = parse(self, "dpc_conversation", line)
        kept = self._notebook.conversations
        if wanted.conversation is not None and wanted.conversation not in kept:
            known = f"known: {', '.join(map(label, kept))}." if kept else "begin one with %dpc_ask -c NAME."
            raise UsageError(f"No conversation is called {label(wanted.conversation)}: {known}")
        if wanted.action == "clear":
            for name in [wanted.conversation] if wanted.conversation else list(kept):
                del kept[name]
        elif wanted.action == "show" or wanted.conversation:
            if not wanted.conversation:
                raise UsageError("Which one? %dpc_conversation show NAME")
            show_table(("Who", "Said"), [(turn.role, turn.content) for turn in kept[wanted.conversation].turns])
        elif kept:
            show_table(("Conversation", "Questions"), [(name, len(talk.turns) // 2) for name, talk in kept.items()])
        else:
            print("No conversation yet: begin one with %dpc_ask -c NAME.")


def _check_variable(name: str | None) -> None:
    if name is not None and not name.isidentifier():
        raise UsageError(f"{label(name)!r} cannot be a variable: use letters, digits and _.")


def _which(left: Sequence[UnfinishedRequest], request_id: str | None) -> UnfinishedRequest:
    """The one that is meant: without an id the only one."""
    found = [each for each in left if request_id in (None, each.request_id)]
    if len(found) == 1:
        return found[0]
    if not left or request_id is not None:
        raise UsageError("There is nothing such to collect: %dpc_pending shows what there is.")
    raise UsageError(f"Which one? %dpc_pending collect ID; there are {len(left)}.")
