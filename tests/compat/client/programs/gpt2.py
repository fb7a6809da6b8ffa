"""A small GPT-2: tied embeddings, causal attention, AdamW, warm-up and cosine decay, clipping by the global norm."""

from __future__ import annotations

import math

import cerebras.pytorch as cstorch
import common
import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 512
LENGTH = 32
HEADS = 4


class Attention(nn.Module):
    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: torch.Tensor, mask_LL: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x_BLD.shape
        q_BHLK, k_BHLK, v_BHLK = (
            part.reshape(batch, length, HEADS, hidden // HEADS).transpose(1, 2)
            for part in self.qkv(x_BLD).split(hidden, dim=-1)
        )
        scores_BHLL = torch.matmul(q_BHLK, k_BHLK.transpose(-1, -2)) / math.sqrt(hidden // HEADS)
        weights_BHLL = self.drop(torch.softmax(scores_BHLL + mask_LL, dim=-1))
        y_BLD = torch.matmul(weights_BHLL, v_BHLK).transpose(1, 2).reshape(batch, length, hidden)
        return self.out(y_BLD)


class Block(nn.Module):
    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, dropout)
        self.ln2 = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, 4 * hidden)
        self.down = nn.Linear(4 * hidden, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: torch.Tensor, mask_LL: torch.Tensor) -> torch.Tensor:
        x_BLD = x_BLD + self.drop(self.attention(self.ln1(x_BLD), mask_LL))
        return x_BLD + self.drop(self.down(F.gelu(self.up(self.ln2(x_BLD)), approximate="tanh")))


class Gpt2(nn.Module):
    def __init__(self, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, hidden)
        self.position_embedding = nn.Embedding(LENGTH, hidden)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden, dropout) for _ in range(layers))
        self.ln = nn.LayerNorm(hidden)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        length = tokens_BL.shape[1]
        places_L = torch.arange(length, device=tokens_BL.device)
        mask_LL = (places_L[None, :] > places_L[:, None]).to(self.ln.weight.dtype) * -1e4
        x_BLD = self.token_embedding(tokens_BL) + self.position_embedding(places_L)
        x_BLD = self.drop(x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_LL.to(x_BLD.dtype))
        return F.linear(self.ln(x_BLD), self.token_embedding.weight)


def batches(size: int, seed: int) -> torch.utils.data.DataLoader:
    """Sequences in which each token follows from the one before; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    starts_N = torch.randint(0, VOCABULARY, (1024, 1), generator=generator)
    steps_N = torch.randint(1, 4, (1024, 1), generator=generator)
    tokens_NL = ((starts_N + steps_N * torch.arange(LENGTH + 1)) % VOCABULARY).to(torch.int32)
    dataset = torch.utils.data.TensorDataset(tokens_NL[:, :-1].contiguous(), tokens_NL[:, 1:].contiguous())
    return common.loader_of(dataset, size)


def schedule(optimizer: torch.optim.Optimizer) -> cstorch.optim.lr_scheduler.LRScheduler:
    return cstorch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            cstorch.optim.lr_scheduler.LinearLR(optimizer, 0.0, 3e-3, 5),
            cstorch.optim.lr_scheduler.CosineDecayLR(optimizer, 3e-3, 3e-4, 100),
        ],
        [5],
    )


def main() -> None:
    chosen = common.parse()
    backend = common.open_backend(chosen)
    with backend.device:
        model = Gpt2(chosen.layers, chosen.hidden, chosen.dropout)
    loss = nn.CrossEntropyLoss()
    common.train(
        chosen,
        backend,
        model,
        lambda model: cstorch.optim.AdamW(
            model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, correct_bias=True
        ),
        schedule,
        lambda model, tokens_BL, labels_BL: loss(
            model(tokens_BL).reshape(-1, VOCABULARY), labels_BL.reshape(-1).long()
        ),
        cstorch.utils.data.DataLoader(batches, chosen.batch, chosen.seed),
        max_gradient_norm=1.0,
    )


if __name__ == "__main__":
    main()
