"""Ask: send a request to a peer or to this machine, and read its answer.

A request is frozen (`request`). Its answer comes piece by piece and has its own clocks (`answer`). `requester`
matches the replies of peers to requests and resumes them on a new link. `local` asks an engine of this machine.
`unfinished` remembers what a process did not live to read. `asker` holds what is open and writes the ledger's entry
at the end.
"""

from __future__ import annotations

from dpc_jupyter.node.asking.answer import Answer, AnswerStream, TextDelta
from dpc_jupyter.node.asking.asker import LOCAL, Asker
from dpc_jupyter.node.asking.request import Clocks, InferenceRequest, conversation, convert
from dpc_jupyter.node.asking.requester import Requester
from dpc_jupyter.node.asking.unfinished import Unfinished, UnfinishedRequest

__all__ = [
    "LOCAL",
    "Answer",
    "AnswerStream",
    "Asker",
    "Clocks",
    "InferenceRequest",
    "Requester",
    "TextDelta",
    "Unfinished",
    "UnfinishedRequest",
    "conversation",
    "convert",
]
