"""Chats beside the cells: a transcript in the kernel, so that a page may come and go, and Python can take it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

from msgspec import Struct

from dpc_jupyter.errors import Busy, DpcError, InvalidRequest, RequestCancelled
from dpc_jupyter.jupyter.drawing.display import SHOWN_CHARS, interval_s
from dpc_jupyter.jupyter.drawing.rich_text import to_html
from dpc_jupyter.jupyter.notebook import LOCAL, UNANSWERED, Notebook, turn_of
from dpc_jupyter.jupyter.saved_host import Chosen
from dpc_jupyter.node.asking import Answer, AnswerStream, TextDelta
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.protocol.messages import ChatMessage
from dpc_jupyter.sanitize import label, plain
from dpc_jupyter.wording import provenance, waiting

Tell = Callable[[dict[str, Any]], None]
# A page draws them all; older ones stay in the transcript that the model reads.
SHOWN = 200
CHATS_LIMIT = 64
# An answer that was stopped has only to be drawn once more.
_END_S = 2.0
_POLL_S = 0.05
_log = logging.getLogger(__name__)


class Message(Struct):
    """One turn as a face shows it, `foot` a line of ours below. `html` is sanitized here; None while there is none."""

    id: str
    role: str
    text: str
    html: str | None = None
    foot: str = ""
    streaming: bool = False


class Chat:
    """One conversation and its one running answer.

    Attributes
    ----------
    transcript : list of dict
        ``{"role", "content"}`` of what was said, as `notebook.turn_of` keeps it.
    answers : list of Answer
        With where each came from.
    """

    def __init__(self, notebook: Notebook, number: str, tell: Tell) -> None:
        self._notebook = notebook
        self._number = number
        self._tell = tell
        self._shown: list[Message] = []
        self._turns: list[ChatMessage] = []
        self._stream: AnswerStream | None = None
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._asked: Future[DpcError | None] | None = None
        self._running = self._stopped = False
        self._count = 0
        self._chosen: Chosen | None = None
        self.answers: list[Answer] = []

    @property
    def transcript(self) -> list[dict[str, str]]:
        """The turns, for Python."""
        return [{"role": turn.role, "content": turn.content} for turn in self._turns]

    def state(self) -> dict[str, Any]:
        """All that a face needs; nothing is `chosen` while the chat asks whom the notebook asks.

        `count` is of the news so far: by it a face knows one that is older than what it shows, and that it missed one.
        """
        return {
            "chat": self._number,
            "count": self._count,
            "chosen": self._chosen,
            "running": self._running,
            "messages": list(self._shown[-SHOWN:]),
        }

    def ask(
        self, prompt: str, host: str | None = None, model: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Ask; the choice of host and model holds for the next turn too.

        Raises
        ------
        DpcError
            Nothing is asked, or an answer is still coming, or the host is not linked.
        """
        if not prompt.strip():
            raise InvalidRequest("Nothing is asked: write something first.")
        with self._lock:  # two faces may ask at once
            if self._running:
                raise Busy("An answer is still coming: stop it, or wait.")
            self._running, self._stopped, self._asked = True, False, None
        try:
            node = self._notebook.node()
            where, name = host or self._notebook.host, "this machine"
            if where != LOCAL:
                peer = self._notebook.link(where)
                where, name = peer.node_id, peer.name
            if host is None:
                model = model or self._notebook.model
            else:
                self._chosen = Chosen(where, label(name), model)
            asked = Message(uuid.uuid4().hex, "user", plain(prompt))
            self._show(asked)
            asking = self._answer(node.service, where, model, ChatMessage("user", prompt), asked, options)
            self._asked = node.submit(asking)
        except BaseException:
            self._running = False
            raise

    def ask_and_wait(self, *args: Any, **settings: Any) -> Answer:
        """As `ask`, and wait for the answer, whole or what came of it; an interrupt stops it."""
        answers = self.answers  # a chat that is cleared meanwhile has others
        before = len(answers)
        self.ask(*args, **settings)
        try:
            while (asked := self._asked) is not None and not asked.done():
                wait([asked], _POLL_S)  # Python runs signal handlers between waits
        except KeyboardInterrupt:
            self.stop()
            raise
        if len(answers) == before:
            failed = None if asked is None or asked.cancelled() else asked.result()
            raise failed or RequestCancelled("Stopped before it was asked.")
        return answers[-1]

    def stop(self) -> None:
        """Stop the answer, if one comes, and wait for the moment until it has ended."""
        self._stopped = True
        if not self._running or (asked := self._asked) is None or (node := self._notebook.running) is None:
            return
        node.run(self._cancel())
        wait([asked], _END_S)

    def clear(self) -> None:
        """Forget everything."""
        self.stop()
        self._shown, self._turns, self.answers = [], [], []
        self._tell_all()

    async def _cancel(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    async def _answer(
        self,
        service: CoreService,
        host: str,
        model: str | None,
        question: ChatMessage,
        asked: Message,
        options: Mapping[str, Any] | None,
    ) -> DpcError | None:
        """On the node's loop. Returns what is wrong, which is shown, too."""
        turns, answers = self._turns, self.answers  # a chat that is cleared meanwhile has others
        shown = Message(uuid.uuid4().hex, "assistant", "", streaming=True)
        began, draw_at, pieces = time.monotonic(), 0.0, list[str]()
        failed: DpcError | None = None
        try:
            if self._stopped:  # while the host was being linked
                raise RequestCancelled("Stopped before it was asked.")
            stream = self._stream = service.execute_ai_query(
                question.content, host, model, messages=tuple(turns), options=options
            )
            self._show(shown)
            async for item in stream:
                now = time.monotonic()
                if isinstance(item, TextDelta):
                    pieces.append(plain(item.text))
                    shown.foot = f"{stream.pieces / max(now - began, 0.1):.0f} tokens/s"
                elif not pieces or stream.away or item.state != "running":
                    shown.foot = waiting(item, stream.host_name, model, now - began, away=stream.away)
                if now >= draw_at or stream.away:  # nothing may come that would draw it later
                    await self._draw(shown, "".join(pieces))
                    draw_at = time.monotonic() + interval_s(len(shown.text))
        except RequestCancelled:
            pass
        except DpcError as error:
            failed = error
        except Exception as error:
            _log.exception("a chat's answer failed")
            failed = DpcError(f"That failed: {type(error).__name__}; the log has more.")
        finally:
            ended, self._stream = self._stream, None
            kept = () if ended is None else turn_of(question, ended.answer)
            turns += kept
            try:
                if ended is not None:
                    answers.append(ended.answer)
                    shown.streaming, shown.foot = False, provenance(ended.answer)
                    shown.text, shown.html = plain(ended.answer.text), None
                    shown.html = await asyncio.to_thread(to_html, shown.text)
            finally:  # said even if the node is stopped meanwhile
                if not kept:
                    asked.foot = UNANSWERED
                    self._update(asked)
                self._running = False
                if ended is not None:
                    self._update(shown)
                if failed is not None:
                    self._show(Message(uuid.uuid4().hex, "error", plain(str(failed))))
                elif ended is None:
                    self._tell_all()
        return failed

    async def _draw(self, message: Message, text: str) -> None:
        # A long text takes longer than a node's loop may stand still.
        message.text = plain(text, SHOWN_CHARS)
        message.html = await asyncio.to_thread(to_html, message.text)
        self._update(message)

    def _show(self, message: Message) -> None:
        self._shown.append(message)
        self._update(message)

    def _update(self, message: Message) -> None:
        with self._telling:
            self._count += 1
            news = {"chat": self._number, "count": self._count, "running": self._running, "message": message}
            self._tell({"chat": news})

    def _tell_all(self) -> None:
        with self._telling:
            self._count += 1
            self._tell({"chat": self.state()})


class Chats:
    """The chats of a kernel, by their numbers."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._chats: dict[str, Chat] = {}
        self.tell: Tell = lambda _message: None

    def __getitem__(self, number: str) -> Chat:
        """A chat, begun if there is none of this number.

        Raises
        ------
        Busy
            There are too many.
        """
        if number not in self._chats:
            if len(self._chats) >= CHATS_LIMIT:
                raise Busy(f"There are {CHATS_LIMIT} chats in this kernel: close one (chat.close()) to begin another.")
            self._chats[number] = Chat(self._notebook, number, lambda message: self.tell(message))
        return self._chats[number]

    def close(self, number: str) -> None:
        """Stop a chat's answer, and make room; nothing if there is none of this number."""
        if (chat := self._chats.pop(number, None)) is not None:
            chat.stop()
