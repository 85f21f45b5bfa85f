"""The whole error tree. A class's docstring is what the sentence means; the sentence itself names the fix."""

from __future__ import annotations


class DpcError(Exception):
    """Anything this package raises on purpose.

    Attributes
    ----------
    code : str
        The stable word for this kind of failure. It travels as ``code`` in a REMOTE_INFERENCE_RESPONSE,
        so that the asking side raises the class that the serving side meant.
    partial : node.answer.Answer or None
        What had come when a request for a whole answer failed.
    """

    code = "error"
    partial: object = None

    @property
    def sentence(self) -> str:
        """The one line a user reads."""
        return str(self)


class ProtocolError(DpcError):
    """The conversation broke a rule of DPTP."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol does not allow now: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow; the connection ends."""


class HandshakeError(RemoteProtocolError):
    """The peer did not prove that it is who we meant, or would not accept our proof."""

    code = "handshake"


class AnotherNode(HandshakeError):
    """Another node answers where the peer was reached once; that says nothing of the peer itself."""

    code = "another_node"


class IdentityError(DpcError):
    """The key, certificate or id file is damaged, or they do not belong together."""

    code = "identity"


class ConfigError(DpcError):
    """A file under the node's home cannot be used as it is; line and column are named."""

    code = "config"


class UriError(DpcError):
    """The text is not a ``dpc://host:port?node_id=...`` address."""

    code = "uri"


class ConnectError(DpcError):
    """No connection to the peer could be made."""

    code = "connect"


class NobodyListens(ConnectError):
    """The machine answers, and no node does: one that was there has ended."""

    code = "refused"


class NotAnnounced(ConnectError):
    """The local network knows nothing of the peer; that says nothing of other ways to it."""

    code = "not_announced"


class InvitationError(DpcError):
    """An invitation cannot be made, read or used."""

    code = "invitation"


class PeerNotConnected(DpcError):
    """The chosen compute host is not linked to this node."""

    code = "not_connected"


class PeerLost(DpcError):
    """The link to the compute host ended while a request was open."""

    code = "peer_lost"


class InferenceError(DpcError):
    """A request for inference ended without an answer."""

    code = "inference"


class AccessDenied(InferenceError):
    """The host's access file does not allow this request."""

    code = "denied"


class Revoked(AccessDenied):
    """The host's owner withdrew the permission while the request ran."""

    code = "revoked"


class ModelNotFound(InferenceError):
    """The host has no such model or provider."""

    code = "not_found"


class Busy(InferenceError):
    """The host refused at once: a limit of this peer or of the machine is reached."""

    code = "busy"


class InvalidRequest(InferenceError):
    """The request itself is wrong: an unknown option, an empty prompt, an image given as a path."""

    code = "invalid"


class AnswerGone(InferenceError):
    """The host holds no such request, or no more: it was restarted, or too much time has passed."""

    code = "gone"


class BackendError(InferenceError):
    """The engine is down, lacks the model, or failed; the sentence names the engine and the fix."""

    code = "backend"


class InferenceTimeout(InferenceError):
    """Nothing came for the whole of one clock: queue, first token, or idle between tokens."""

    code = "timeout"


class RequestCancelled(InferenceError):
    """The asker stopped the request."""

    code = "cancelled"


def _tree(root: type[DpcError]) -> dict[str, type[DpcError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update({code: cls for code, cls in _tree(child).items() if code not in found})
    return found


def from_wire(code: str | None, sentence: str) -> DpcError:
    """Rebuild the error that a compute host reported.

    Parameters
    ----------
    code : str or None
        ``code`` of the REMOTE_INFERENCE_RESPONSE; a DPTP v1.5 peer sends none.
    sentence : str
        Its ``error`` text, already sanitized.

    Returns
    -------
    DpcError
        Always an `InferenceError`: a peer cannot make us raise anything else.
    """
    return _tree(InferenceError).get(code or "", InferenceError)(sentence)
