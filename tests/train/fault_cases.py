"""What the fault tests share: a small model, a run of it, and ways to break it."""

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
from openwafer.train.optim import SGD, AdamW, UpdateRule
from run_cases import FEATURES, Numbers, same_tensors, squared_error

__all__ = [
    "ADAMW",
    "CLIFF",
    "FEATURES",
    "Numbers",
    "is_finite",
    "kill_role",
    "mlp",
    "same_tensors",
    "squared_error",
    "steep_error",
    "trainer",
]

ADAMW = AdamW(lr=1e-2)
CLIFF = SGD(lr=1e38)
"""One update from a finite loss to weights that no float32 holds."""


def mlp(width: int = 16) -> nn.Module:
    """Three layers with weights."""
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )


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


def is_finite(checkpoint: Path) -> bool:
    """Whether no tensor of a checkpoint holds NaN or infinity."""
    opened = Checkpoint.open(checkpoint, verify=True)
    return all(bool(torch.isfinite(opened.tensor(name)).all()) for name in opened.types)


def kill_role(name: str) -> None:
    """End the process of a role as the kernel does when memory runs out."""
    pids = [child.pid for child in multiprocessing.active_children() if child.name == name]
    assert len(pids) == 1, f"{name} is {len(pids)} processes"
    os.kill(pids[0], signal.SIGKILL)
