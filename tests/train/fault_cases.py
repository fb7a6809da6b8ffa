"""What the fault tests share: a small model, data that can misbehave, and a run of both."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from openwafer.cluster.store import Checkpoint
from openwafer.train import LocalCluster, Trainer
from openwafer.train.data import Batch, BatchSource
from openwafer.train.optim import SGD, AdamW, UpdateRule

BATCH, FEATURES = 8, 8
ADAMW = AdamW(lr=1e-2)
CLIFF = SGD(lr=1e38)
"""One update from a finite loss to weights that no float32 holds."""


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


def mlp(width: int = 16) -> nn.Module:
    """Three layers with weights."""
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The loss."""
    return nn.functional.mse_loss(output, target)


def steep_error(output: Tensor, target: Tensor) -> Tensor:
    """The same loss with gradients that CLIFF turns into infinite weights."""
    return 1e4 * nn.functional.mse_loss(output, target)


def trainer(
    folder: Path,
    optimizer: UpdateRule = ADAMW,
    model: Callable[[], nn.Module] = mlp,
    loss: Callable[..., Tensor] = squared_error,
    **cluster: Any,
) -> Trainer:
    """A run of the MLP that says nothing on the console, streamed, on ATen's kernels, as threads."""
    options = {"processes": False, "execution": "weight_streaming", "matmul": "torch", "threads": 1}
    return Trainer(
        model,
        optimizer=optimizer,
        loss=loss,
        cluster=LocalCluster(**{**options, **cluster}),
        folder=folder,
        name="faults",
        console=Console(file=io.StringIO()),
    )


def same_tensors(left: Path, right: Path) -> bool:
    """Whether two checkpoints hold the same weights and optimizer state, bit for bit."""
    a, b = Checkpoint.open(left, verify=True), Checkpoint.open(right, verify=True)
    return a.types == b.types and all(
        torch.equal(a.tensor(name).view(torch.uint8), b.tensor(name).view(torch.uint8))
        for name in a.types
        if a.tensor(name).dim()
    )


def is_finite(checkpoint: Path) -> bool:
    """Whether no tensor of a checkpoint holds NaN or infinity."""
    opened = Checkpoint.open(checkpoint, verify=True)
    return all(bool(torch.isfinite(opened.tensor(name)).all()) for name in opened.types)


def kill_role(name: str) -> None:
    """End the process of a role as the kernel does when memory runs out."""
    pids = [child.pid for child in multiprocessing.active_children() if child.name == name]
    assert len(pids) == 1, f"{name} is {len(pids)} processes"
    os.kill(pids[0], signal.SIGKILL)
