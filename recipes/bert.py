"""BERT on bytes: an encoder that sees the whole text and fills in the bytes that were masked.

It differs from the BERT of 2018 in normalising before each part instead of after it, which trains without a
long warmup, and in having no token types. Legend: B samples, S positions, D width, H heads, V vocabulary.
Source: Devlin et al., "BERT" (2018).
"""

from __future__ import annotations

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
from openwafer.train.data import (
    BatchSource,
    ByteText,
    MapDataset,
    MaskedTokens,
    from_dataset,
    python_stdlib,
)
from openwafer.train.optim import AdamW, UpdateRule, WarmupCosine, clip_by_global_norm

MASK = 256
"""The token that stands for a masked byte."""
VOCABULARY = 257


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
    "small": Shape(layers=4, width=192, heads=3, seq_len=128, batch=16, steps=300, lr=5e-4),
    "base": Shape(layers=12, width=768, heads=12, seq_len=512, batch=64, steps=10_000, lr=2e-4),
    "large": Shape(layers=24, width=1024, heads=16, seq_len=512, batch=64, steps=10_000, lr=1e-4),
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
    """Train a byte-level BERT on the source of the Python standard library, or on your own text.

        wafer train recipes/bert.py
        wafer train recipes/bert.py size=base data=~/text

    size   layers x width, heads, positions
    tiny    2 x 32,    2 heads,  32  36,097 parameters; for tests
    small   4 x 192,   3 heads, 128  1,891,457 parameters; about a minute on two CPU cores
    base   12 x 768,  12 heads, 512  86,238,977 parameters; the shape of BERT base
    large  24 x 1024, 16 heads, 512  304,150,785 parameters; the shape of BERT large

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
    optimizer: UpdateRule = AdamW(lr=schedule, betas=(0.9, 0.98), weight_decay=0.01, decay="matrices")
    return RunConfig(
        name=f"bert-{size}",
        model=partial(Bert, shape.layers, shape.width, shape.heads, shape.seq_len),
        train=partial(masked_text, data, "train", shape.seq_len, batch, seed),
        eval=partial(masked_text, data, "eval", shape.seq_len, batch, seed),
        loss=masked_byte_loss,
        optimizer=clip_by_global_norm(optimizer, clip) if clip else optimizer,
        steps=steps,
        eval_every=max(1, steps // 4),
        eval_batches=4,
        checkpoint_every=max(1, steps // 2),
        seed=seed,
        cluster=LocalCluster(execution="weight_streaming"),
    )


def masked_text(
    data: str | None, split: Literal["train", "eval"], seq_len: int, batch: int, seed: int
) -> BatchSource:
    """Batches of `input_ids` and `labels`, int64 [B, S]; labels are the masked bytes, elsewhere -100."""
    windows: MapDataset
    if data is None:
        windows = python_stdlib(seq_len, split)
    else:
        every = ByteText(Path(data).expanduser(), seq_len)
        held_out = max(batch, len(every) // 20)
        cut = len(every) - held_out
        if cut < batch:
            raise InputError(
                f"{data} holds {len(every)} windows of {seq_len} bytes, but training and evaluation need a "
                f"batch of {batch} each; add text or lower batch"
            )
        windows = Subset(every, range(cut) if split == "train" else range(cut, len(every)))
    masked = MaskedTokens(windows, mask_token=MASK, vocab_size=VOCABULARY, seed=seed)
    return from_dataset(masked, batch, seed=seed, shuffle=split == "train")


def masked_byte_loss(logits_BSV: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy of the masked bytes, in nats; every sample has the same number of them."""
    return F.cross_entropy(logits_BSV.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)


class Bert(nn.Module):
    """Bytes with some of them masked in, logits of the original bytes out."""

    def __init__(self, layers: int, width: int, heads: int, seq_len: int) -> None:
        super().__init__()
        self.embedding = Embedding(VOCABULARY, width)
        self.positions = Embedding(seq_len, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = Head(width)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: int64 [B, S]; S at most the model's seq_len. Returns logits [B, S, V]."""
        positions_S = torch.arange(input_ids.shape[1], device=input_ids.device)
        x_BSD = self.embedding(input_ids) + self.positions(positions_S)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        logits_BSV: Tensor = self.head(self.norm(x_BSD), self.embedding.weight)
        return logits_BSV


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


class Head(nn.Module):
    """A transform, then the product with every token's embedding: the output weight is the input's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.empty(VOCABULARY))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set this module's own parameter; the transform's are the transform's."""
        nn.init.zeros_(self.bias)

    def forward(self, x_BSD: Tensor, embedding_VD: Tensor) -> Tensor:
        return F.linear(self.transform(x_BSD), embedding_VD, self.bias)


class Linear(nn.Linear):
    """A linear layer that starts from a normal distribution, with a bias of 0."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A table of vectors that starts from a normal distribution."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
