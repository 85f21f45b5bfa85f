"""One frozen struct per DPTP command, and the tables that map commands to structs.

Sources: DPTP v1.5 as measured on a D-PC Messenger v0.27 node; fields and commands under ``ext`` are ours and are
ignored by such a node. Field limits are the protocol's, checked on decoding.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

NodeId = Annotated[str, Meta(pattern=r"^dpc-node-[0-9a-f]{32}\Z")]
RequestId = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+\Z")]
Name = Annotated[str, Meta(max_length=128)]
ModelName = Annotated[str, Meta(max_length=256)]
Base64 = Annotated[str, Meta(max_length=1024)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]


# How a host of DPTP v1.5 refuses a node without access (section 1).
DENIED = "Access denied: You are not authorized to request inference"
# A host keeps so long what an absent asker may come back for. A restarted kernel is back within minutes.
RESUME_WITHIN_S = 600.0


class Message(Struct, frozen=True, omit_defaults=True):
    """What every wire struct is; `COMMANDS` maps the subclass to its command word."""


class CbOffer(Struct, frozen=True):
    """The server's half of channel binding version 1: how its nonce was made."""

    v: int
    salt: Base64


class CbProof(Struct, frozen=True):
    """The client's half: its signature over domain, nonce, certificate hash and both ids."""

    v: int
    sig: Base64


class Ext(Struct, frozen=True, omit_defaults=True):
    """Extensions a side offers; in force only when both offer them.

    Attributes
    ----------
    session : str
        Names one running node. An identity may hold several sessions at once (two notebooks, one user).
    stream : bool
        CHUNK, STATUS and CANCEL are understood.
    resume : bool
        RESUME is: a request outlives the link that it came by.
    invite : bool
        INVITE_CLAIM is.
    """

    v: int
    session: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+\Z")]
    stream: bool = False
    resume: bool = False
    invite: bool = False


class HelloChallenge(Message, frozen=True):
    """Server to client, first: 32 random bytes, or with `cb` 32 bytes bound to the server's certificate."""

    nonce: Base64
    cb: CbOffer | None = None


class Hello(Message, frozen=True):
    """Client to server: who it is, and the proof."""

    node_id: NodeId
    name: Name
    cert_pem: Annotated[str, Meta(max_length=8192)]
    nonce_signature: Base64
    cb: CbProof | None = None
    ext: Ext | None = None


class HelloAck(Message, frozen=True, kw_only=True):
    """Server to client: accepted (status ``OK``) or refused (status ``ERROR`` with the sentence in `error`).

    Its fields lie at the top level of the frame, not under ``payload``.
    """

    status: str
    node_id: NodeId | None = None
    name: Name = ""
    ext: Ext | None = None
    error: Annotated[str, Meta(max_length=1024)] = ""


class GetProviders(Message, frozen=True):
    """Ask which models this peer lets us use."""


class ProviderInfo(Struct, frozen=True, omit_defaults=False):
    """One model as a compute host offers it."""

    alias: Name
    model: ModelName
    type: Annotated[str, Meta(max_length=64)] = ""
    supports_vision: bool = False
    supports_voice: bool = False
    context_window: Count | None = None
    warm: bool | None = None


class Load(Struct, frozen=True):
    """How busy a host is: requests of everybody that run and wait, and the seconds that one more would wait."""

    running: Count
    waiting: Count
    eta_s: Seconds | None = None


class ProvidersResponse(Message, frozen=True, omit_defaults=False):
    """The models this peer may use now; empty without permission. Pushed again when rules or models change.

    `load` goes only to peers that use extensions and have a permission.
    """

    providers: Annotated[tuple[ProviderInfo, ...], Meta(max_length=512)] = ()
    load: Load | UnsetType = UNSET


class Image(Struct, frozen=True, forbid_unknown_fields=True):
    """One picture, as base64 alone: a path or URL would make the host open it."""

    base64: str
    mime_type: Literal["image/png", "image/jpeg", "image/webp", "image/gif"]


class ChatMessage(Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation. Pictures belong to the turn that shows them."""

    role: Literal["system", "user", "assistant"]
    content: str
    images: Annotated[tuple[Image, ...], Meta(max_length=8)] = ()


def _clamp(value: float | None, low: float, high: float) -> float | None:
    return None if value is None else min(max(value, low), high)


class Options(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The closed list of sampling options. Unknown names are refused; values are clamped by the host.

    Attributes
    ----------
    temperature : float, 0 to 2
    top_p : float, 0 to 1
    top_k : int, 1 to 1000
    max_tokens : int, 1 to 32768
    seed : int, 0 to 2**31 - 1
    stop : up to 4 strings of 64 characters
    presence_penalty, frequency_penalty : float, -2 to 2
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=4)] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def clamped(self) -> Options:
        """The same options inside the limits above; a missing `max_tokens` becomes `DEFAULT_MAX_TOKENS`."""
        tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return Options(
            temperature=_clamp(self.temperature, 0, 2),
            top_p=_clamp(self.top_p, 0, 1),
            top_k=None if self.top_k is None else min(max(self.top_k, 1), 1000),
            max_tokens=min(max(tokens, 1), MAX_TOKENS),
            seed=None if self.seed is None else min(max(self.seed, 0), 2**31 - 1),
            stop=self.stop,
            presence_penalty=_clamp(self.presence_penalty, -2, 2),
            frequency_penalty=_clamp(self.frequency_penalty, -2, 2),
        )


# 32,768 tokens of up to 30 bytes each still fit one 1 MiB frame, which a DPTP v1.5 peer needs.
MAX_TOKENS = 32_768
# A forgotten limit must not hold a shared GPU for minutes: Ollama's own default is endless, OpenAI's is the context.
DEFAULT_MAX_TOKENS = 2_048


class RemoteInferenceRequest(Message, frozen=True, kw_only=True):
    """Ask for inference. `prompt` is what DPTP peers read; `messages` with `options` is the chat shape."""

    request_id: RequestId
    prompt: str = ""
    model: ModelName | None = None
    provider: Name | None = None
    images: Annotated[tuple[Image, ...], Meta(max_length=8)] = ()
    messages: Annotated[tuple[ChatMessage, ...], Meta(max_length=1024)] = ()
    options: Options = Options()
    stream: bool = False
    priority: Literal["interactive", "batch"] = "interactive"


class RemoteInferenceStatus(Message, frozen=True, omit_defaults=True):
    """Where a request stands. `position` counts from 1; `eta_s` is an estimate in seconds."""

    request_id: RequestId
    state: Literal["queued", "loading", "running"]
    position: Count | None = None
    eta_s: Seconds | None = None
    note: Annotated[str, Meta(max_length=256)] = ""


class RemoteInferenceChunk(Message, frozen=True, omit_defaults=True):
    """The next piece of an answer; `index` counts from 0 without a gap."""

    request_id: RequestId
    index: Count
    text: str = ""
    thinking: str = ""


class Timings(Struct, frozen=True, omit_defaults=True):
    """Clocks of one request on the host, in seconds."""

    queue_s: float = 0.0
    first_token_s: float | None = None
    total_s: float = 0.0


class RemoteInferenceResponse(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Closes a request, with the whole answer or, after a stream, with the SHA-256 of its text instead.

    `status` is ``success`` or ``error``. `code` is `errors.DpcError.code`.
    """

    request_id: RequestId
    status: Literal["success", "error"]
    response: str | UnsetType = UNSET
    tokens_used: Count | None = None
    prompt_tokens: Count | None = None
    response_tokens: Count | None = None
    model_max_tokens: Count | None = None
    model: ModelName | None = None
    provider: Name | None = None
    thinking: str | None = None
    thinking_tokens: Count | None = None
    error: Annotated[str, Meta(max_length=4096)] | None = None
    code: Annotated[str, Meta(max_length=32)] | None = None
    finish_reason: Annotated[str, Meta(max_length=32)] | None = None
    text_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    model_digest: Annotated[str, Meta(max_length=128)] | None = None
    timings: Timings | None = None


class RemoteInferenceCancel(Message, frozen=True):
    """Stop this request and free its slot at once."""

    request_id: RequestId


class RemoteInferenceResume(Message, frozen=True):
    """Go on with a request of mine over this link, from the chunk `next_index`; one that is over is answered again."""

    request_id: RequestId
    next_index: Count


RelayId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class RelayPeer(Struct, frozen=True):
    """Somebody who can be reached over the node that says so; the name is what that node calls it."""

    node_id: NodeId
    name: Name = ""


class RelayPeers(Message, frozen=True):
    """The nodes that this one would relay you to, now."""

    nodes: Annotated[tuple[RelayPeer, ...], Meta(max_length=1024)] = ()


class RelayOpen(Message, frozen=True):
    """Carry a stream to `target`, to which the receiver is linked, or which it is itself."""

    relay_id: RelayId
    target: NodeId


class RelayOpened(Message, frozen=True):
    """The stream has reached its target."""

    relay_id: RelayId


class RelayData(Message, frozen=True):
    """A piece of the stream's ciphertext; at most 24 KiB, in base64."""

    relay_id: RelayId
    data: Annotated[str, Meta(min_length=4, max_length=32 * 1024)]


class RelayCredit(Message, frozen=True):
    """So many bytes have been read: as many more may come."""

    relay_id: RelayId
    count_bytes: Annotated[int, Meta(ge=1, le=2**20)]


class RelayClose(Message, frozen=True):
    """The stream is over, or was never made."""

    relay_id: RelayId
    reason: Annotated[str, Meta(max_length=256)] = ""


InviteId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class InviteClaim(Message, frozen=True):
    """I hold this invitation: `proof` is `invitation.proof` for this link. A node that nobody has let in may say so."""

    invite_id: InviteId
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class InviteResult(Message, frozen=True, omit_defaults=True):
    """The answer. Refused is refused: `error` is the same whatever was wrong.

    Attributes
    ----------
    name : str
        What the host's owner calls the node that joined.
    sharing : bool
        Whether the host takes requests of those whom it lets in.
    """

    invite_id: InviteId
    status: Literal["ok", "refused"]
    name: Name = ""
    sharing: bool = True
    error: Annotated[str, Meta(max_length=1024)] = ""


class Ping(Message, frozen=True):
    """Are you there? `timestamp` comes back unchanged; only its sender reads it."""

    timestamp: float


class Pong(Message, frozen=True):
    """Yes."""

    timestamp: float


# The reason of a node that ends; who dialled it may look for it again.
SHUTTING_DOWN = "the node is shutting down"


class Goodbye(Message, frozen=True):
    """An orderly close, and why."""

    reason: Annotated[str, Meta(max_length=256)] = ""


class Unknown(Message, frozen=True):
    """A command this version does not know: ignored, as DPTP v1.5 does."""

    command: str


COMMANDS: dict[str, type[Message]] = {
    "HELLO_CHALLENGE": HelloChallenge,
    "HELLO": Hello,
    "HELLO_ACK": HelloAck,
    "GET_PROVIDERS": GetProviders,
    "PROVIDERS_RESPONSE": ProvidersResponse,
    "REMOTE_INFERENCE_REQUEST": RemoteInferenceRequest,
    "REMOTE_INFERENCE_STATUS": RemoteInferenceStatus,
    "REMOTE_INFERENCE_CHUNK": RemoteInferenceChunk,
    "REMOTE_INFERENCE_RESPONSE": RemoteInferenceResponse,
    "REMOTE_INFERENCE_CANCEL": RemoteInferenceCancel,
    "REMOTE_INFERENCE_RESUME": RemoteInferenceResume,
    "RELAY_PEERS": RelayPeers,
    "RELAY_OPEN": RelayOpen,
    "RELAY_OPENED": RelayOpened,
    "RELAY_DATA": RelayData,
    "RELAY_CREDIT": RelayCredit,
    "RELAY_CLOSE": RelayClose,
    "INVITE_CLAIM": InviteClaim,
    "INVITE_RESULT": InviteResult,
    "PING": Ping,
    "PONG": Pong,
    "GOODBYE": Goodbye,
}
COMMAND_OF: dict[type[Message], str] = {struct: word for word, struct in COMMANDS.items()}

# Only between peers that both offered `ext`; from anyone else they count as unknown.
EXTENSIONS: frozenset[type[Message]] = frozenset(
    (
        *(RemoteInferenceStatus, RemoteInferenceChunk, RemoteInferenceCancel, RemoteInferenceResume),
        *(RelayPeers, RelayOpen, RelayOpened, RelayData, RelayCredit, RelayClose),
        *(InviteClaim, InviteResult),
        *(Ping, Pong, Goodbye),
    )
)

Payload = dict[str, Any]
