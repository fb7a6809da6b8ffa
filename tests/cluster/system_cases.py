"""What the tests of systems share: small models, captured, cut and given real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from openwafer.artifact import TensorType
from openwafer.graph import StepGraph, capture
from openwafer.train._step import make_step
from openwafer.train.optim import AdamW, UpdateRule


class Residual(nn.Module):
    """An embedding, residual blocks with attention and dropout, batch statistics and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.transpose(1, 2)).transpose(1, 2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.drop = nn.Dropout(0.25)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.drop(torch.relu(self.out(mixed.transpose(1, 2).flatten(2))))


def loss(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


INPUTS = {"input0": TensorType("int64", (8,)), "input1": TensorType("int64", (8,))}


@dataclass
class Small:
    """A model with values for all that a step reads, by the names of the graph."""

    module: nn.Module
    values: dict[str, torch.Tensor | int]

    def capture(self, rule: UpdateRule, samples: int = 4) -> StepGraph:
        batch = tuple(torch.zeros(1) for _ in INPUTS)
        return capture(self.module, make_step(self.module, batch, loss, {}), INPUTS, samples, rule)


@cache
def small() -> Small:
    torch.manual_seed(0)
    module = Residual().train()
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return Small(
        module,
        {
            **{name: value.detach() for name, value in named.items()},
            "input0": torch.randint(32, (4, 8)),
            "input1": torch.randint(32, (4, 8)),
            "sample_fraction": torch.tensor(0.5),
            "rng": 1234567,
        },
    )


ADAMW = AdamW(lr=1e-2, weight_decay=0.1)
