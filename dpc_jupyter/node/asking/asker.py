"""What this node asks, at peers and here: open requests, notes for an heir, and the ledger's line at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.ledger import Entry, Ledger
from dpc_jupyter.node.asking.answer import AnswerStream
from dpc_jupyter.node.asking.local import run_here
from dpc_jupyter.node.asking.request import InferenceRequest
from dpc_jupyter.node.asking.requester import Requester
from dpc_jupyter.node.asking.unfinished import NOTE_AFTER_S, Unfinished, UnfinishedRequest
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.tasks import Tasks

LOCAL = "local"


class Asker:
    """The open requests of one node.

    Parameters
    ----------
    write : callable
        Called with a function that blocks on the disk, and its arguments.
    """

    def __init__(
        self,
        requester: Requester,
        registry: Registry,
        unfinished: Unfinished,
        ledger: Ledger,
        write: Callable[..., None],
    ) -> None:
        self._requester = requester
        self._registry = registry
        self._unfinished = unfinished
        self._ledger = ledger
        self._write = write
        self._open: dict[AnswerStream, None] = {}
        self._noted: dict[AnswerStream, asyncio.TimerHandle | None] = {}  # None: it is in the file
        self._pieces = 0
        self._tasks = Tasks()

    @property
    def streams(self) -> list[AnswerStream]:
        """What is open, oldest first."""
        return list(self._open)

    @property
    def pieces(self) -> int:
        """How many have come, in all."""
        return self._pieces + sum(stream.pieces for stream in self._open)

    def at(self, peer: Peer, host_name: str, request: InferenceRequest) -> AnswerStream:
        """Ask a peer; or collect its answer, where a process of this user asked the same and did not live to read it.

        Raises
        ------
        InvalidRequest
            It does not fit one frame; nothing was sent.
        """
        before = self._unfinished.take(peer.node_id, request) if peer.resumes else None
        if before is None:
            stream = self._requester.open(peer, request, host_name, self._ended)
            if peer.resumes:
                self._noted[stream] = asyncio.get_running_loop().call_later(NOTE_AFTER_S, self._note, stream)
        else:
            request = replace(request, request_id=before)
            stream = self._requester.collect(peer, request, host_name, self._ended, anew=True)
            self._noted[stream] = None
        for offer in peer.offers:
            if request.provider in (None, offer.alias) and request.model in (None, offer.model):
                stream.expected = (offer.model, offer.alias)
                break
        self._open[stream] = None
        return stream

    def here(self, request: InferenceRequest) -> AnswerStream:
        """Ask this machine."""

        def abort() -> None:
            task.cancel()

        stream = AnswerStream(request, LOCAL, "this machine", abort, self._ended)
        task = self._tasks.spawn(run_here(self._registry, stream))
        self._open[stream] = None
        return stream

    def collect(self, peer: Peer, known: UnfinishedRequest) -> AnswerStream:
        """Read the answer to what another process of this user asked."""
        request = InferenceRequest(known.request_id, (), known.model or None)
        stream = self._requester.collect(peer, request, known.host_name, self._ended)
        self._open[stream] = self._noted[stream] = None
        return stream

    def _note(self, stream: AnswerStream) -> None:
        self._noted[stream] = None
        self._write(self._unfinished.note, stream.host, stream.host_name, stream.request)

    def _ended(self, stream: AnswerStream) -> None:
        self._open.pop(stream, None)
        if stream in self._noted:
            if (timer := self._noted.pop(stream)) is not None:
                timer.cancel()
            else:
                self._write(self._unfinished.forget, stream.request.request_id)
        self._pieces += stream.pieces
        answer = stream.answer
        self._ledger.record(
            Entry(
                id=answer.request_id,
                role="asker",
                peer=answer.host,
                model=answer.model,
                provider=answer.provider,
                started_at=time.time() - answer.timings.total_s,
                queue_s=answer.timings.queue_s,
                first_token_s=answer.timings.first_token_s,
                total_s=answer.timings.total_s,
                prompt_tokens=answer.usage.prompt_tokens,
                # A host that was stopped tells no count; what came is known here.
                response_tokens=answer.usage.response_tokens if answer.error is None else stream.pieces or None,
                outcome="ok" if stream.error is None else stream.error.code,
            )
        )

    async def stop(self) -> None:
        """Stop everything that is open."""
        for stream in self.streams:
            stream.cancel()
        await self._tasks.stop()
