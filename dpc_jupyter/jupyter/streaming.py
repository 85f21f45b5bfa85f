"""From the background node into a face, on the cell's own thread, until the answer ends or the user stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from dpc_jupyter.errors import AccessDenied, DpcError, ModelNotFound
from dpc_jupyter.jupyter.drawing.one_line import Interrupted
from dpc_jupyter.jupyter.interrupts import HeldInterrupt
from dpc_jupyter.jupyter.notebook import link, linked
from dpc_jupyter.node.asking import Answer, TextDelta, UnfinishedRequest
from dpc_jupyter.node.thread import AnswerReader, BackgroundNode
from dpc_jupyter.protocol.messages import RemoteInferenceStatus
from dpc_jupyter.terminal import TerminalAnswer
from dpc_jupyter.wording import provenance, waiting, with_models


class Face(Protocol):
    """What draws one answer."""

    def wait(self, line: str, /) -> None:
        """Say where the request stands."""

    def pause(self, line: str, /) -> None:
        """Say why no text comes for now, though some has come."""

    def add(self, piece: str, /) -> None:
        """Take the next piece of text."""

    def tick(self) -> None:
        """Draw what is due."""

    def end(self, answer: Answer, /) -> None:
        """Draw the whole of it, or what came."""


class TerminalFace:
    """In a plain IPython terminal there is no display to update: pieces are printed."""

    def __init__(self, terminal: TerminalAnswer) -> None:
        self._terminal = terminal
        # Only where the text has ended a line: a part of one cannot be written anew.
        self.wait, self.pause, self.add = terminal.wait, terminal.wait, terminal.add

    def tick(self) -> None:
        """Everything is printed already."""

    def end(self, answer: Answer) -> None:
        """Finish the text."""
        self._terminal.end(provenance(answer) if answer.text or answer.error is None else "")


Drawn = tuple[Answer, DpcError | Interrupted | None]


def ask(node: BackgroundNode, face: Face, host: str, **question: Any) -> Drawn:
    """Ask, and draw the answer as it comes.

    Parameters
    ----------
    host : str
        ``local``, or as `notebook.link`: it is linked to if need be.
    question
        As `CoreService.execute_ai_query`.

    Returns
    -------
    Answer
        All of it, or what came.
    DpcError or Interrupted or None
        Why it ended early.
    """
    try:
        host = linked(node, host)
    except DpcError as error:
        return _unlinked(host, error)
    model = question.get("model")
    return _draw(node, face, host, model, lambda: node.execute_ai_query(compute_host=host, **question))


def collect(node: BackgroundNode, face: Face, left: UnfinishedRequest) -> Drawn:
    """Draw the answer to a question of a process that has ended; returns as `ask`. Its host is linked to if need be."""
    try:
        link(node, left.host)
    except DpcError as error:
        return _unlinked(left.host, error)
    return _draw(node, face, left.host, left.model or None, lambda: node.collect(left.request_id))


def _unlinked(host: str, error: DpcError) -> Drawn:
    return Answer("", host, host, "", finish_reason="error", error=str(error)), error


def _draw(node: BackgroundNode, face: Face, host: str, model: str | None, begin: Callable[[], AnswerReader]) -> Drawn:
    started, status, thought = time.monotonic(), None, 0
    here_at = started  # when its host was not away
    failure: DpcError | Interrupted | None = None
    with HeldInterrupt() as interrupt:
        reader = begin()
        try:
            for item in reader:
                if interrupt.pressed:
                    break
                now, away = time.monotonic(), reader.away
                here_at = here_at if away else now
                if isinstance(item, TextDelta) and item.text:
                    status = None  # what is said from now on is of a text that has stopped
                    face.add(item.text)
                    continue
                if isinstance(item, TextDelta):
                    thought += len(item.thinking.split())
                elif isinstance(item, RemoteInferenceStatus):
                    status = item
                name = reader.answer.host_name if reader.answer else host
                line = waiting(status, name, model, now - (here_at if away else started), away=away)
                if status is not None and (away or status.state != "running"):
                    face.pause(line)
                else:
                    face.wait(f"{name} is thinking · {thought} words so far" if thought else line)
                face.tick()
        except DpcError as error:
            failure = error
        except KeyboardInterrupt:
            interrupt.pressed = True
        finally:
            reader.cancel()
    answer = reader.answer or Answer("", host, host, "")
    if interrupt.pressed:
        failure = Interrupted(f"Stopped. What came is kept in _dpc; {answer.host_name} was told to free its slot.")
    if isinstance(failure, ModelNotFound | AccessDenied):
        failure = _with_models(node, failure, answer)
    if failure is not None:
        reason = "cancelled" if interrupt.pressed else "error"
        answer = replace(answer, finish_reason=reason, error=str(failure))
    face.end(answer)
    return answer, failure


def _with_models(node: BackgroundNode, error: DpcError, answer: Answer) -> DpcError:
    try:
        return with_models(error, answer, node.run(node.service.models(answer.host, timeout_s=1.0)))
    except DpcError:  # the link has ended meanwhile
        return error
