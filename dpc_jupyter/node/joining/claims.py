"""Joining by an invitation, over a link: claiming at a host, and answering those who claim here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from dpc_jupyter.errors import ConnectError, DpcError, InvitationError, PeerLost, UriError
from dpc_jupyter.hub.client.trust import is_loopback
from dpc_jupyter.hub.wire import origin_of
from dpc_jupyter.node.joining.invitations import Invitations, Joined
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.tasks import Tasks
from dpc_jupyter.protocol.invitation import Invitation, proof
from dpc_jupyter.protocol.messages import InviteClaim, InviteResult
from dpc_jupyter.sanitize import label

# The same for whatever was wrong: who holds no invitation learns nothing about those that there are.
REFUSED = (
    "This invitation cannot be used: it is not one of this host's, has been used, has ended, or was taken back. "
    "Ask the host's owner for a new one."
)
# Every refusal leaves so long after its claim: how long the disk took tells nothing, either.
REFUSED_AFTER_S = 0.25


def other_hub(invitation: Invitation, ours: str) -> str:
    """What a joiner may do about the hub that a line names, whom no way led to its host.

    Parameters
    ----------
    ours : str
        The origin of the hub that this node uses; empty for none.

    Returns
    -------
    str
        Empty where the line names none, or ours. It is the word of whoever wrote the line, so what may not stand in a
        command does not, and what would be refused is not proposed.
    """
    named = invitation.hub
    if named in ("", ours):
        return ""
    with suppress(UriError):
        if origin_of(named) == named and (named.startswith("https:") or is_loopback(urlsplit(named).hostname or "")):
            return f"If that is your lab's, set it by %dpc_hub {named} and use the same invitation again."
    return "Ask its owner for another line: nobody can use that hub."


class Claims:
    """The claims that go over the links of one node, in both directions.

    Parameters
    ----------
    node_id : str
        Ours.
    invitations : Invitations
    joined : callable
        Somebody is let in by an invitation; called before it hears so.
    refused : callable
        Somebody is not, and why, for the owner.
    """

    def __init__(
        self,
        node_id: str,
        invitations: Invitations,
        joined: Callable[[Peer, Joined], None],
        refused: Callable[[Peer, str], None],
    ) -> None:
        self._node_id = node_id
        self._invitations = invitations
        self._joined = joined
        self._refused = refused
        self._claiming: dict[tuple[Peer, str], asyncio.Future[InviteResult]] = {}
        self._answering: set[Peer] = set()
        self._tasks = Tasks()

    async def claim(self, peer: Peer, invitation: Invitation, timeout_s: float) -> InviteResult:
        """Prove to a host that we hold its invitation.

        Raises
        ------
        InvitationError
            It refused.
        PeerLost, ConnectError
            It went away, or did not answer; the invitation may be tried again.
        """
        key = (peer, invitation.invite_id)
        answered = self._claiming.setdefault(key, asyncio.get_running_loop().create_future())
        made = proof(invitation.secret, peer.binding, self._node_id, peer.node_id, invitation.invite_id)
        peer.send(InviteClaim(invitation.invite_id, made))
        try:
            async with asyncio.timeout(timeout_s):
                result = await asyncio.shield(answered)
        except TimeoutError:
            raise ConnectError(
                f"The host did not answer within {timeout_s:g} s. Use the same invitation again."
            ) from None
        finally:
            self._claiming.pop(key, None)
        if result.status != "ok":
            raise InvitationError(label(result.error, 400) or REFUSED)
        return result

    def take_result(self, peer: Peer, result: InviteResult) -> None:
        """A host answers; nothing where nobody has claimed."""
        answered = self._claiming.get((peer, result.invite_id))
        if answered is not None and not answered.done():
            answered.set_result(result)

    def take_claim(self, peer: Peer, claim: InviteClaim) -> None:
        """Somebody claims: one at a time over a link, whatever else is said meanwhile is refused."""
        if peer in self._answering:
            self._refuse(peer, claim)
            return
        self._answering.add(peer)
        self._tasks.spawn(self._answer(peer, claim))

    def peer_closed(self, peer: Peer, name: str) -> None:
        """Its link has ended."""
        for (claimed_at, _), answered in self._claiming.items():
            if claimed_at is peer and not answered.done():
                answered.set_exception(PeerLost(f"The link to {name} ended. Use the same invitation again."))

    async def stop(self) -> None:
        """End what is under way."""
        await self._tasks.stop()

    async def _answer(self, peer: Peer, claim: InviteClaim) -> None:
        patience = asyncio.create_task(asyncio.sleep(REFUSED_AFTER_S))
        try:
            joined = await asyncio.to_thread(
                self._invitations.claim, claim.invite_id, claim.proof, peer.binding, peer.node_id
            )
        except (DpcError, OSError) as error:
            await patience
            self._refuse(peer, claim)
            self._refused(peer, str(error))
        else:
            self._joined(peer, joined)
            peer.send(InviteResult(claim.invite_id, "ok", label(joined.name), joined.sharing))
        finally:
            patience.cancel()
            self._answering.discard(peer)

    def _refuse(self, peer: Peer, claim: InviteClaim) -> None:
        peer.send(InviteResult(claim.invite_id, "refused", error=REFUSED))
