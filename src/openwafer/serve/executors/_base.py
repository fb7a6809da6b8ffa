"""What the engine asks of whatever runs the model: batches of tokens in, logits out, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from openwafer.serve.model import BLOCK_TOKENS, ModelConfig

__all__ = ["BLOCK_TOKENS", "Batch", "Executor"]


@dataclass(frozen=True, slots=True)
class Batch:
    """New tokens of several sequences, one after another, and where their keys and values lie.

    Sequence s has tokens `starts[s]` to `starts[s + 1]`; after them it is `contexts[s]` tokens long, and token p of it has
    its keys and values in block `tables_SB[s, p // BLOCK_TOKENS]` at row `p % BLOCK_TOKENS`. Blocks that other sequences
    share are only read: a batch writes the blocks of its own new tokens.
    """

    tokens_T: torch.Tensor
    """int64, on the CPU."""
    positions_T: torch.Tensor
    """int64: the place of each token in its sequence."""
    starts: tuple[int, ...]
    """One more than there are sequences; the last is T."""
    contexts: tuple[int, ...]
    tables_SB: torch.Tensor
    """int32; rows are filled up with -1."""
    outputs: tuple[int, ...]
    """The tokens whose logits are wanted, ascending."""


class Executor(Protocol):
    """Runs batches on a model that is loaded. Used by one thread."""

    config: ModelConfig
    blocks: int
    """Blocks of the KV cache."""
    in_flight: int
    """Batches that may be submitted before the first is collected; no sequence is in two of them."""

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Seconds that each stage has computed so far: time in which it waits for batches or weights is not in it."""

    def submit(self, batch: Batch) -> None:
        """Begin a batch. Raises EngineError if the executor failed."""

    def collect(self) -> torch.Tensor:
        """The logits of the oldest batch that was submitted: float32 on the CPU, [outputs, vocabulary].

        Raises EngineError if the executor failed; it can then only be closed.
        """

    def close(self) -> None:
        """Free everything; may be called twice."""
