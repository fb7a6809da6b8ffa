"""The GPT that every contestant trains: `recipes/gpt.py`'s, with any vocabulary and a head that may be tied.

Plain torch: peers run it in an environment without openwafer, where the recipe cannot be imported.
Legend: B samples, S positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LR, DECAY = 1e-4, 0.1
"""AdamW's learning rate, and its weight decay on every parameter."""


class Shape(NamedTuple):
    """The size of a model; `tied`: the head is the embedding's weight."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    positions: int
    tied: bool = False

    @property
    def parameters(self) -> int:
        """How many, a tied head counted once."""
        block = 12 * self.width**2 + 13 * self.width
        tables = (self.vocabulary + self.positions) * self.width
        head = 0 if self.tied else (self.width + 1) * self.vocabulary
        return self.layers * block + tables + 2 * self.width + head

    @property
    def state_bytes(self) -> int:
        """Weights and both moments of AdamW in float32."""
        return 12 * self.parameters


SHAPES = {
    "tiny": Shape(4, 128, 4, 512, 64),
    "s8": Shape(12, 768, 12, 8192, 256),
    "m8": Shape(24, 1024, 16, 8192, 256),
    "xl8": Shape(48, 1600, 25, 8192, 256),
    "gpt2": Shape(12, 768, 12, 50257, 1024, tied=True),
    "gpt2-medium": Shape(24, 1024, 16, 50257, 1024, tied=True),
    "gpt2-xl": Shape(48, 1600, 25, 50257, 1024, tied=True),
}


def mean_loss(logits_BSV: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross entropy in nats. The labels are the inputs: random tokens that can be learnt at once."""
    return F.cross_entropy(logits_BSV.float().flatten(0, 1), batch["labels"].flatten())


def tokens(step: int, batch: int, shape: Shape) -> dict[str, Tensor]:
    """The random tokens of a step, `input_ids` and `labels`, int64 [B, S]: the same for every contestant."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens_BS = torch.randint(0, shape.vocabulary, (batch, shape.positions), generator=generator)
    return {"input_ids": tokens_BS, "labels": tokens_BS}


class GPT(nn.Module):
    """Tokens in, logits of a vocabulary out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        residual_std = 0.02 / math.sqrt(2 * shape.layers)  # every block adds to the residual stream twice
        self.embedding = Embedding(shape.vocabulary, shape.width)
        self.positions = Embedding(shape.positions, shape.width)
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, residual_std) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width)
        self.head = Linear(shape.width, shape.vocabulary, bias=not shape.tied)
        if shape.tied:
            self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: int64 [B, S]; S at most the shape's positions. Returns logits [B, S, V]."""
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
    """A linear layer that starts from a normal distribution of a given width, with a bias of 0 if it has one."""

    def __init__(self, inputs: int, outputs: int, std: float = 0.02, bias: bool = True) -> None:
        self.std = std  # nn.Linear's constructor resets the parameters
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A table of vectors that starts from a normal distribution."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
