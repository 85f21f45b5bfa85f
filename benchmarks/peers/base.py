"""What a row needs of a peer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

PROMPT = "Explain in one short paragraph why the sky is blue."


class Asker(Protocol):
    """Somebody who asks the stub over one of the ways."""

    name: str

    def ask(self, tokens: int, per_s: int = 0) -> AsyncGenerator[str, None]:
        """Ask for so many tokens, at once or at a pace; yields text as it comes, and ends with the whole answer."""

    async def close(self) -> None:
        """Let go of every connection."""
