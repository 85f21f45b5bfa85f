"""What a ladder of ways says when none of them works."""

from __future__ import annotations

import asyncio
import time

import pytest

from dpc_jupyter.errors import ConnectError, DpcError, HandshakeError, NobodyListens, NotAnnounced
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.reaching.ladder import Way, climb


def failing(error: DpcError, after_s: float = 0.0) -> Way:
    async def dial() -> Peer:
        await asyncio.sleep(after_s)
        raise error

    return Way(error.code, dial)


SILENT, ENDED = ConnectError("Nothing answered."), NobodyListens("Nothing listens.")
NOT_NEAR, REFUSED = NotAnnounced("It is not here."), HandshakeError("Who are you?")


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([ENDED], NobodyListens),
        ([ENDED, ENDED], NobodyListens),
        ([ENDED, SILENT], ConnectError),
        ([ENDED, NOT_NEAR], NobodyListens),  # what is not announced says nothing of a host that has ended
        ([NOT_NEAR, SILENT], ConnectError),
        ([NOT_NEAR], NotAnnounced),
        ([NOT_NEAR, NOT_NEAR], ConnectError),
        ([SILENT, REFUSED, ENDED], ConnectError),  # one that lies at one way must not speak for the others
        ([REFUSED, REFUSED], HandshakeError),
        ([REFUSED, NOT_NEAR], HandshakeError),
        ([], ConnectError),
    ],
)
async def test_the_verdict_tells_a_host_that_has_ended_from_one_that_is_away(
    errors: list[DpcError], verdict: type[DpcError]
) -> None:
    with pytest.raises(DpcError) as failed:
        await climb([failing(error) for error in errors])
    assert type(failed.value) is verdict
    assert all(error.sentence in failed.value.sentence for error in errors)


async def test_a_way_that_fails_at_once_does_not_hold_up_the_next_one() -> None:
    began = time.monotonic()
    with pytest.raises(ConnectError):
        await climb([failing(SILENT), failing(SILENT), failing(ENDED)], stagger_s=10.0)
    assert time.monotonic() - began < 5
