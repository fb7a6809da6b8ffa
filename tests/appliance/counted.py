"""A recipe for the chaos tests: a small model whose steps take a while, with many checkpoints."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from openwafer.train import LocalCluster, RunConfig
from openwafer.train.data import Batch, BatchSource
from openwafer.train.optim import AdamW


def recipe(steps: int = 60, pause: float = 0.0, every: int = 5, hurry: str = "") -> RunConfig:
    """`pause`: seconds that a batch takes, until the file `hurry` is there. `every`: steps between checkpoints."""
    return RunConfig(
        name="counted",
        model=model,
        train=partial(Numbers, pause, hurry),
        loss=squared_error,
        optimizer=AdamW(lr=1e-2),
        steps=steps,
        checkpoint_every=every,
        cluster=LocalCluster(systems=2, matmul="torch", execution="weight_streaming"),
    )


def model() -> nn.Module:
    """Three layers with weights."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


class Numbers(BatchSource):
    """Batches made of their step's number."""

    def __init__(self, pause: float, hurry: str) -> None:
        self.pause = pause
        self.hurry = hurry

    @property
    def batch_size(self) -> int:
        return 8

    @property
    def samples(self) -> None:
        return None

    @property
    def steps_per_epoch(self) -> None:
        return None

    def batch(self, step: int) -> Batch:
        if not (self.hurry and Path(self.hurry).exists()):
            time.sleep(self.pause)
        generator = torch.Generator().manual_seed(step)
        return torch.randn(8, 8, generator=generator), torch.randn(8, 4, generator=generator)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The loss."""
    return nn.functional.mse_loss(output, target)
