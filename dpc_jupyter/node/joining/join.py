"""Join a host by an invitation: link to it, claim, and hear what it offers."""

from __future__ import annotations

from dpc_jupyter.errors import ConnectError, HandshakeError, InvitationError
from dpc_jupyter.node.joining.claims import Claims, other_hub
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.reaching import Directory, Presence, Reach
from dpc_jupyter.node.serving import Offers
from dpc_jupyter.protocol.invitation import Invitation
from dpc_jupyter.protocol.messages import InviteResult
from dpc_jupyter.sanitize import label


class Join:
    """What one node needs to use the invitations of others."""

    def __init__(
        self, own_id: str, reach: Reach, presence: Presence, directory: Directory, claims: Claims, offers: Offers
    ) -> None:
        self._own_id = own_id
        self._reach = reach
        self._presence = presence
        self._directory = directory
        self._claims = claims
        self._offers = offers

    async def by(self, line: str, name: str | None, timeout_s: float) -> tuple[Peer, InviteResult]:
        """Link to the host of an invitation, and get access there; parameters and errors as `CoreService.join`."""
        invitation = Invitation.parse(line)
        if invitation.node_id == self._own_id:
            raise InvitationError("This is an invitation of your own node: send it to whom it is for.")
        hub = self._presence.hub
        cure = other_hub(invitation, "" if hub is None else hub.state.origin)
        if not invitation.addresses and hub is None:
            raise InvitationError(
                f"This host opens no port: it is called over the hub at {label(invitation.hub, 200)} alone. {cure}"
            )
        peer = await self._link(invitation, name, timeout_s, cure)
        host_name = self._directory.name_of(peer)
        if peer.closed:
            raise ConnectError(f"The link to {host_name} ended at once. Use the same invitation again.")
        if not peer.invites:
            raise InvitationError(
                f"{host_name} runs a dpc-jupyter that knows no invitations: its owner updates it, or lets in "
                f"your node id: {self._own_id}"
            )
        result = await self._claims.claim(peer, invitation, timeout_s)
        await self._offers.ask(peer, timeout_s)
        return peer, result

    async def _link(self, invitation: Invitation, name: str | None, timeout_s: float, cure: str) -> Peer:
        try:
            return await self._reach.connect_by(invitation, name, timeout_s)
        except (ConnectError, HandshakeError) as error:  # where it has moved, another node may have its old address
            if not cure:
                raise
            named = f"The invitation names the hub at {label(invitation.hub, 200)}."
            raise type(error)(f"{error} {named} {cure}") from error
