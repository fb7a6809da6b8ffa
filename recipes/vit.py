"""A vision transformer that reads handwritten digits patch by patch.

Legend: B samples, P pixels, N patches, S positions (a class token and the patches), D width, H heads.
Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openwafer.base import InputError
from openwafer.train._config import LocalCluster, RunConfig
from openwafer.train.data import BatchSource, digits, from_dataset, mnist_files
from openwafer.train.optim import AdamW, UpdateRule, WarmupCosine, clip_by_global_norm

CLASSES = 10
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a model and how it is trained by default."""

    layers: int
    width: int
    heads: int
    steps: int
    lr: float


SIZES = {
    "tiny": Shape(layers=2, width=32, heads=2, steps=20, lr=3e-3),
    "small": Shape(layers=4, width=64, heads=4, steps=300, lr=2e-3),
    "base": Shape(layers=12, width=768, heads=12, steps=5_000, lr=2e-4),
}


def recipe(
    size: str = "small",
    data: str | None = None,
    patch: int | None = None,
    steps: int | None = None,
    batch: int = BATCH,
    lr: float | None = None,
    clip: float | None = None,
    seed: int = 0,
) -> RunConfig:
    """Train a vision transformer on the 8 x 8 digits of scikit-learn, or on MNIST's own files.

        wafer train recipes/vit.py
        wafer train recipes/vit.py size=base data=~/mnist patch=7

    size   layers x width, heads (parameters for the 8 x 8 digits)
    tiny    2 x 32,   2 heads  26,538 parameters; for tests
    small   4 x 64,   4 heads  202,186 parameters; under a minute on two CPU cores
    base   12 x 768, 12 heads  85,081,354 parameters; the shape of ViT base

    data: the folder of MNIST's four files, or of a set in their form: 28 x 28 pixels, 10 classes.
    patch: its side in pixels; 2 for the digits, and 4 or 7 for MNIST (default 4).
    """
    if size not in SIZES:
        raise InputError(f"there is no size {size!r} of this recipe; take one of {', '.join(SIZES)}")
    shape = SIZES[size]
    side = 8 if data is None else 28
    patch = (2 if data is None else 4) if patch is None else patch
    if patch < 1 or side % patch:
        raise InputError(
            f"patches of {patch} x {patch} do not tile images of {side} x {side}; take a divisor of {side}"
        )
    steps = shape.steps if steps is None else steps
    lr = shape.lr if lr is None else lr
    schedule = WarmupCosine(peak=lr, warmup_steps=max(1, steps // 10), steps=max(2, steps), end=lr / 10)
    optimizer: UpdateRule = AdamW(lr=schedule, weight_decay=0.05, decay="matrices")
    return RunConfig(
        name=f"vit-{size}",
        model=partial(ViT, side, patch, shape.layers, shape.width, shape.heads),
        train=partial(images, data, "train", batch, seed),
        eval=partial(images, data, "eval", batch, seed),
        loss=class_loss,
        metrics={"accuracy": accuracy},
        optimizer=clip_by_global_norm(optimizer, clip) if clip else optimizer,
        steps=steps,
        eval_every=max(1, steps // 4),
        eval_batches=max(1, (364 if data is None else 10_000) // batch),  # the images kept for evaluation
        checkpoint_every=max(1, steps // 2),
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


class ViT(nn.Module):
    """Images in, logits of their classes out."""

    def __init__(self, side: int, patch: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(side, patch, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = Head(width, CLASSES)

    def forward(self, pixels_BP: Tensor) -> Tensor:
        """pixels_BP: float [B, side * side], row by row. Returns logits [B, 10]."""
        x_BSD = self.embedding(pixels_BP)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        logits: Tensor = self.head(self.norm(x_BSD[:, 0]))
        return logits


class PatchEmbedding(nn.Module):
    """A class token, then one vector per patch, each with its position added."""

    def __init__(self, side: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch, self.across = patch, side // patch
        self.project = Linear(patch * patch, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.across**2, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set this module's own parameters; the projection's are the projection's."""
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, pixels_BP: Tensor) -> Tensor:
        B, n, p = pixels_BP.shape[0], self.across, self.patch
        patches_BNp = pixels_BP.view(B, n, p, n, p).transpose(2, 3).reshape(B, n * n, p * p)
        x_BSD = torch.cat((self.class_token.expand(B, -1, -1), self.project(patches_BNp)), dim=1)
        return x_BSD + self.positions


class Block(nn.Module):
    """Attention and an MLP, each on a normalised copy of the stream that it adds to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD))
        x_BSD = x_BSD + self.mlp(self.mlp_norm(x_BSD))
        return x_BSD


class Attention(nn.Module):
    """Every position looks at all positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        B, S, D = x_BSD.shape
        q, k, v = (
            part.view(B, S, self.heads, D // self.heads).transpose(1, 2)
            for part in self.qkv(x_BSD).split(D, dim=-1)
        )
        mixed_BHSd = F.scaled_dot_product_attention(q, k, v)
        out_BSD: Tensor = self.out(mixed_BHSd.transpose(1, 2).reshape(B, S, D))
        return out_BSD


class Linear(nn.Linear):
    """A linear layer that starts from Glorot's uniform distribution, with a bias of 0."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Head(nn.Linear):
    """A linear layer that starts at 0, so that every class is equally likely at first."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
