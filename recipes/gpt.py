"""A GPT that reads and writes bytes: the decoder of GPT-2, with a vocabulary of 256 and no tokenizer.

Legend: B samples, S positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

from openwafer.base import InputError
from openwafer.train._config import LocalCluster, RunConfig
from openwafer.train.data import BatchSource, ByteText, MapDataset, from_dataset, python_stdlib
from openwafer.train.optim import AdamW, UpdateRule, WarmupCosine, clip_by_global_norm

VOCABULARY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a model and how it is trained by default."""

    layers: int
    width: int
    heads: int
    seq_len: int
    batch: int
    steps: int
    lr: float


SIZES = {
    "tiny": Shape(layers=2, width=32, heads=2, seq_len=32, batch=4, steps=20, lr=3e-3),
    "small": Shape(layers=6, width=256, heads=4, seq_len=256, batch=8, steps=200, lr=5e-4),
    "medium": Shape(layers=12, width=768, heads=12, seq_len=1024, batch=16, steps=5_000, lr=6e-4),
    "xl": Shape(layers=48, width=1600, heads=25, seq_len=1024, batch=32, steps=20_000, lr=2e-4),
    "8b": Shape(layers=32, width=4608, heads=36, seq_len=2048, batch=64, steps=50_000, lr=1.5e-4),
}


def recipe(
    size: str = "small",
    data: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    clip: float | None = None,
    seed: int = 0,
) -> RunConfig:
    """Train a byte-level GPT on the source of the Python standard library, or on your own text.

        wafer train recipes/gpt.py
        wafer train recipes/gpt.py size=medium data=~/text steps=1000

    size    layers x width, heads, positions
    tiny     2 x 32,    2 heads,   32      43,136 parameters; for tests
    small    6 x 256,   4 heads,  256   4,935,936 parameters; minutes on two CPU cores
    medium  12 x 768,  12 heads, 1024  86,235,904 parameters; GPT-2's smallest shape
    xl      48 x 1600, 25 heads, 1024  1,478,019,456 parameters; the shape of GPT-2 XL
    8b      32 x 4608, 36 heads, 2048  8,167,449,856 parameters

    data: a text file or a folder of them; the last twentieth of its windows is kept for evaluation.
    clip: largest global norm of the gradients. Off by default: a clipped update has to wait for the
    gradients of all layers, an unclipped one starts with the first.
    """
    if size not in SIZES:
        raise InputError(f"there is no size {size!r} of this recipe; take one of {', '.join(SIZES)}")
    shape = SIZES[size]
    batch = shape.batch if batch is None else batch
    steps = shape.steps if steps is None else steps
    lr = shape.lr if lr is None else lr
    schedule = WarmupCosine(peak=lr, warmup_steps=max(1, steps // 10), steps=max(2, steps), end=lr / 10)
    optimizer: UpdateRule = AdamW(lr=schedule, betas=(0.9, 0.95), weight_decay=0.1, decay="matrices")
    return RunConfig(
        name=f"gpt-{size}",
        model=partial(GPT, shape.layers, shape.width, shape.heads, shape.seq_len),
        train=partial(text, data, "train", shape.seq_len, batch, seed),
        eval=partial(text, data, "eval", shape.seq_len, batch, seed),
        loss=next_byte_loss,
        metrics={"bits_per_byte": bits_per_byte},
        optimizer=clip_by_global_norm(optimizer, clip) if clip else optimizer,
        steps=steps,
        eval_every=max(1, steps // 4),
        eval_batches=4,
        checkpoint_every=max(1, steps // 2),
        seed=seed,
        cluster=LocalCluster(execution="weight_streaming"),
    )


def text(
    data: str | None, split: Literal["train", "eval"], seq_len: int, batch: int, seed: int
) -> BatchSource:
    """Batches of `input_ids` and `labels`, int64 [B, S]; labels are the bytes that follow."""
    windows: MapDataset
    if data is None:
        windows = python_stdlib(seq_len, split)
    else:
        every = ByteText(Path(data).expanduser(), seq_len)
        held_out = max(batch, len(every) // 20)
        if len(every) < batch + held_out:
            raise InputError(
                f"{data} holds {len(every)} windows of {seq_len} bytes, but training and evaluation need a "
                f"batch of {batch} each; add text or lower batch"
            )
        cut = len(every) - held_out
        windows = Subset(every, range(cut) if split == "train" else range(cut, len(every)))
    return from_dataset(windows, batch, seed=seed, shuffle=split == "train")


def next_byte_loss(logits_BSV: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of the next byte, in nats."""
    return F.cross_entropy(logits_BSV.float().flatten(0, 1), batch["labels"].flatten())


def bits_per_byte(logits_BSV: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The loss in bits: what a compressor that used this model would spend on a byte."""
    return next_byte_loss(logits_BSV, batch) / math.log(2)


class GPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, layers: int, width: int, heads: int, seq_len: int) -> None:
        super().__init__()
        residual_std = 0.02 / math.sqrt(2 * layers)  # every block adds to the residual stream twice
        self.embedding = Embedding(VOCABULARY, width)
        self.positions = Embedding(seq_len, width)
        self.blocks = nn.ModuleList(Block(width, heads, residual_std) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: int64 [B, S]; S at most the model's seq_len. Returns logits [B, S, V]."""
        positions_S = torch.arange(input_ids.shape[1], device=input_ids.device)
        x_BSD = self.embedding(input_ids) + self.positions(positions_S)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        logits_BSV: Tensor = self.head(self.norm(x_BSD))
        return logits_BSV


class Block(nn.Module):
    """Attention and an MLP, each on a normalised copy of the stream that it adds to."""

    def __init__(self, width: int, heads: int, residual_std: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, residual_std)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width, std=residual_std)
        )

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD))
        x_BSD = x_BSD + self.mlp(self.mlp_norm(x_BSD))
        return x_BSD


class Attention(nn.Module):
    """Every position looks at itself and at the positions before it."""

    def __init__(self, width: int, heads: int, residual_std: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width, std=residual_std)

    def forward(self, x_BSD: Tensor) -> Tensor:
        B, S, D = x_BSD.shape
        q, k, v = (
            part.view(B, S, self.heads, D // self.heads).transpose(1, 2)
            for part in self.qkv(x_BSD).split(D, dim=-1)
        )
        mixed_BHSd = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out_BSD: Tensor = self.out(mixed_BHSd.transpose(1, 2).reshape(B, S, D))
        return out_BSD


class Linear(nn.Linear):
    """A linear layer that starts from a normal distribution of a given width, with a bias of 0."""

    def __init__(self, inputs: int, outputs: int, std: float = 0.02) -> None:
        self.std = std  # nn.Linear's constructor resets the parameters
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A table of vectors that starts from a normal distribution."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
