"""How much the engine takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.base import InputError
from openwafer.serve.executors import BLOCK_TOKENS
from openwafer.serve.kernels import NATIVE_SEQUENCE_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what waits, what runs, and how large a batch is."""

    waiting: int = 256
    """Requests that may wait; one more is refused."""
    running: int = 64
    """Choices that are answered at the same time."""
    batch_tokens: int = 8 * BLOCK_TOKENS
    """New tokens of one batch; a quarter of them may have logits."""
    chunk_tokens: int = 2 * BLOCK_TOKENS
    """Tokens of prompts in a batch that answers go on in as well: what bounds how long they wait for their next."""
    answer_tokens: int = NATIVE_SEQUENCE_TOKENS
    """Tokens of one answer in one batch, drafts or a preempted answer's own: so few are computed as a single one is."""
    verified_tokens: int = 32
    """Tokens of one batch up to which verifying costs less than it may save."""
    fair_tokens: int = 1024
    """A client's turn, where several wait: tokens that it may have before the next one's turn."""

    def __post_init__(self) -> None:
        """Raises InputError for limits under which nothing could run."""
        least = {"chunk_tokens": BLOCK_TOKENS, "batch_tokens": 5 * BLOCK_TOKENS}
        for name in ("waiting", "running", "answer_tokens", "fair_tokens", *least):
            if getattr(self, name) < least.get(name, 1):
                raise InputError(
                    f"{name} is {getattr(self, name)}, so nothing could run; give at least {least.get(name, 1)}"
                )

    @property
    def batch_outputs(self) -> int:
        """Tokens of one batch whose logits may be wanted."""
        return self.batch_tokens // 4

    @property
    def batch_answers(self) -> int:
        """Of them those of answers that go on: a block of a prompt that is echoed always finds room beside them."""
        return self.batch_outputs - BLOCK_TOKENS
