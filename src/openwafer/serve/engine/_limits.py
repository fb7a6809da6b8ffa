"""How much the engine takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.base import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what waits, what runs, and how large a batch is."""

    waiting: int = 256
    """Requests that may wait; one more is refused."""
    running: int = 64
    """Choices that are answered at the same time."""
    batch_tokens: int = 1024
    """New tokens of one batch; a quarter of them may have logits."""
    chunk_tokens: int = 256
    """Tokens of prompts in a batch that answers go on in as well: what bounds how long they wait for their next."""
    draft_tokens: int = 7
    """Predicted tokens that one sequence has verified in one batch."""
    verified_tokens: int = 32
    """Tokens of one batch up to which verifying costs less than it may save."""
    fair_tokens: int = 1024
    """A client's turn, where several wait: tokens that it may have before the next one's turn."""

    def __post_init__(self) -> None:
        """Raises InputError for limits under which nothing could run."""
        for name in ("waiting", "running", "chunk_tokens", "fair_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, so nothing could run; give at least 1")
        if self.batch_tokens < 4:
            raise InputError(f"batch_tokens is {self.batch_tokens}; give at least 4")

    @property
    def batch_outputs(self) -> int:
        """Tokens of one batch whose logits may be wanted."""
        return self.batch_tokens // 4
