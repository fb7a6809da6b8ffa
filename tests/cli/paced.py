"""A recipe for the tests of `wafer`: a small model whose data comes at a pace, so that a signal meets it in the middle."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor, nn

from openwafer.train import LocalCluster, RunConfig
from openwafer.train.data import Batch, BatchSource
from openwafer.train.optim import AdamW


def recipe(steps: int = 40, pause: float = 0.0, fail_at: int = -1) -> RunConfig:
    """`pause`: seconds that a batch takes. `fail_at`: the step whose batch cannot be made."""
    return RunConfig(
        name="paced",
        model=partial(nn.Linear, 8, 4),
        train=partial(Paced, pause, fail_at),
        loss=squared_error,
        optimizer=AdamW(lr=1e-2),
        steps=steps,
        checkpoint_every=1000,
        cluster=LocalCluster(matmul="torch", threads=1),
    )


class Paced(BatchSource):
    """Batches made of their step's number."""

    def __init__(self, pause: float, fail_at: int) -> None:
        self.pause, self.fail_at = pause, fail_at

    @property
    def batch_size(self) -> int:
        return 4

    @property
    def samples(self) -> None:
        return None

    @property
    def steps_per_epoch(self) -> None:
        return None

    def batch(self, step: int) -> Batch:
        time.sleep(self.pause)
        if step == self.fail_at:
            raise OSError("the tape broke")
        generator = torch.Generator().manual_seed(step)
        return torch.randn(4, 8, generator=generator), torch.randn(4, 4, generator=generator)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The loss."""
    return nn.functional.mse_loss(output, target)
