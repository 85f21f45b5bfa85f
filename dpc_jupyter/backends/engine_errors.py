"""What an engine's own error text may become in a sentence that a user, or a peer, reads."""

from __future__ import annotations

import msgspec

from dpc_jupyter.backends.base import Generation

_LIMIT = 200
# So much of a prompt inside a message is an echo; shorter overlaps are ordinary words.
_ECHO = 16


def shortened(body: bytes | str, generation: Generation | None = None) -> str:
    """One line of at most 200 characters from an error body, and nothing of the prompt.

    Validation errors of some servers quote their input: such a message is dropped whole.
    """
    message = " ".join(_message(body).split())[:_LIMIT]
    if generation and any(_echoes(turn.content, message) for turn in generation.messages):
        return "no reason that can be shown without the prompt"
    return message or "no reason given"


def _message(body: bytes | str) -> str:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return "" if isinstance(body, bytes) else body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict):
            found = found.get(key, found)
    return found if isinstance(found, str) else ""


def _echoes(content: str, message: str) -> bool:
    content = " ".join(content.split())
    if len(content) <= _ECHO:
        return bool(content) and content in message
    return any(message[at : at + _ECHO] in content for at in range(len(message) - _ECHO + 1))
