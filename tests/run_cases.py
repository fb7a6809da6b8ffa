"""What tests of whole runs share: batches that can misbehave, a loss, and whether two checkpoints are the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from openwafer.cluster.store import Checkpoint
from openwafer.train.data import Batch, BatchSource

BATCH, FEATURES = 8, 8


class Numbers(BatchSource):
    """Batches (x [B, F], y [B, 4]) made of their step's number; pickles, so that an input process may read it.

    nan_at: the step whose target holds a NaN. fail_at: the step whose batch cannot be made.
    """

    def __init__(self, nan_at: int = -1, fail_at: int = -1) -> None:
        self.nan_at, self.fail_at = nan_at, fail_at

    @property
    def batch_size(self) -> int:
        return BATCH

    @property
    def samples(self) -> None:
        return None

    @property
    def steps_per_epoch(self) -> None:
        return None

    def batch(self, step: int) -> Batch:
        if step == self.fail_at:
            raise ValueError("sample 17 is unreadable")
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(BATCH, FEATURES, generator=generator), torch.randn(BATCH, 4, generator=generator)
        if step == self.nan_at:
            y[3, 1] = float("nan")
        return x, y


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The loss."""
    return nn.functional.mse_loss(output, target)


def same_tensors(left: Path, right: Path) -> bool:
    """Whether two checkpoints hold the same weights and optimizer state, bit for bit."""
    a, b = Checkpoint.open(left, verify=True), Checkpoint.open(right, verify=True)
    return a.types == b.types and all(
        torch.equal(
            a.tensor(name).reshape(-1).view(torch.uint8), b.tensor(name).reshape(-1).view(torch.uint8)
        )
        for name in a.types
    )
