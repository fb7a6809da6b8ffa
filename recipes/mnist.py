"""A fully connected network of three layers that reads handwritten digits: the smallest complete run.

Legend: B samples, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from openwafer.base import InputError
from openwafer.train._config import LocalCluster, RunConfig
from openwafer.train.data import BatchSource, digits, from_dataset, mnist_files
from openwafer.train.optim import SGD, Adam, UpdateRule

CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a network and how long it is trained by default."""

    hidden: int
    steps: int


SIZES = {
    "tiny": Shape(hidden=16, steps=20),
    "small": Shape(hidden=128, steps=300),
    "large": Shape(hidden=2048, steps=1_000),
}


def recipe(
    size: str = "small",
    data: str | None = None,
    optimizer: Literal["sgd", "adam"] = "sgd",
    steps: int | None = None,
    batch: int = 64,
    lr: float | None = None,
    seed: int = 0,
) -> RunConfig:
    """Train three fully connected layers on the 8 x 8 digits of scikit-learn, or on MNIST's own files.

        wafer train recipes/mnist.py
        wafer train recipes/mnist.py size=large data=~/mnist optimizer=adam

    size   hidden width (parameters for the 8 x 8 digits)
    tiny     16  1,482 parameters; for tests
    small   128  26,122 parameters; seconds on one CPU core
    large  2048  4,349,962 parameters

    data: the folder of MNIST's four files, or of a set in their form: 28 x 28 pixels, 10 classes.
    optimizer: SGD with momentum 0.9 (lr 0.1 by default), or Adam (lr 0.001).
    """
    if size not in SIZES:
        raise InputError(f"there is no size {size!r} of this recipe; take one of {', '.join(SIZES)}")
    if optimizer not in ("sgd", "adam"):
        raise InputError(f"there is no optimizer {optimizer!r} of this recipe; take sgd or adam")
    shape = SIZES[size]
    steps = shape.steps if steps is None else steps
    if lr is None:
        lr = 0.1 if optimizer == "sgd" else 1e-3
    rule: UpdateRule = SGD(lr=lr, momentum=0.9) if optimizer == "sgd" else Adam(lr=lr)
    return RunConfig(
        name=f"mnist-{size}",
        model=partial(Mlp, 8 * 8 if data is None else 28 * 28, shape.hidden),
        train=partial(images, data, "train", batch, seed),
        eval=partial(images, data, "eval", batch, seed),
        loss=class_loss,
        metrics={"accuracy": accuracy},
        optimizer=rule,
        steps=steps,
        eval_every=max(1, steps // 4),
        eval_batches=max(1, (364 if data is None else 10_000) // batch),  # the images kept for evaluation
        seed=seed,
        cluster=LocalCluster(execution="weight_streaming"),
    )


def images(data: str | None, split: Literal["train", "eval"], batch: int, seed: int) -> BatchSource:
    """Batches of pixels, float32 [B, P] in 0..1, and classes, int64 [B]."""
    found = digits(split) if data is None else mnist_files(Path(data).expanduser(), split)
    return from_dataset(found, batch, seed=seed, shuffle=split == "train")


def class_loss(logits: Tensor, target_B: Tensor) -> Tensor:
    """Mean cross entropy of the class, in nats."""
    return F.cross_entropy(logits.float(), target_B)


def accuracy(logits: Tensor, target_B: Tensor) -> Tensor:
    """The share of images whose likeliest class is the right one."""
    return (logits.argmax(dim=-1) == target_B).float().mean()


class Mlp(nn.Module):
    """Pixels in, logits of the ten classes out; the layers are torch's own, and start as they do there."""

    def __init__(self, pixels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, CLASSES)

    def forward(self, pixels_BP: Tensor) -> Tensor:
        """pixels_BP: float [B, P]. Returns logits [B, 10]."""
        x = F.relu(self.first(pixels_BP))
        x = F.relu(self.second(x))
        logits: Tensor = self.third(x)
        return logits
