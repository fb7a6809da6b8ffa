"""A small vision transformer: patches by a convolution, a class token, SGD with momentum."""

from __future__ import annotations

import math

import cerebras.pytorch as cstorch
import common
import torch
from torch import nn
from torch.nn import functional as F

SIDE = 16
PATCH = 4
CLASSES = 10
HEADS = 4


class Layer(nn.Module):
    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.ln2 = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, 4 * hidden)
        self.down = nn.Linear(4 * hidden, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x_BLD.shape
        q_BHLK, k_BHLK, v_BHLK = (
            part.reshape(batch, length, HEADS, hidden // HEADS).transpose(1, 2)
            for part in self.qkv(self.ln1(x_BLD)).split(hidden, dim=-1)
        )
        scores_BHLL = torch.matmul(q_BHLK, k_BHLK.transpose(-1, -2)) / math.sqrt(hidden // HEADS)
        weights_BHLL = self.drop(torch.softmax(scores_BHLL, dim=-1))
        y_BLD = torch.matmul(weights_BHLL, v_BHLK).transpose(1, 2).reshape(batch, length, hidden)
        x_BLD = x_BLD + self.drop(self.out(y_BLD))
        return x_BLD + self.drop(self.down(F.gelu(self.up(self.ln2(x_BLD)))))


class Vit(nn.Module):
    def __init__(self, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.position_embedding = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(hidden, dropout) for _ in range(layers))
        self.ln = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        x_BLD = self.patches(x_BCYX).flatten(2).transpose(1, 2)
        token_B1D = self.class_token.expand(x_BLD.shape[0], -1, -1).to(x_BLD.dtype)
        x_BLD = torch.cat([token_B1D, x_BLD], dim=1) + self.position_embedding
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        return self.head(self.ln(x_BLD)[:, 0])


def batches(size: int, seed: int) -> torch.utils.data.DataLoader:
    """Noisy pictures of ten patterns; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    patterns_KCYX = torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator)
    labels_N = torch.randint(0, CLASSES, (512,), generator=generator)
    x_NCYX = patterns_KCYX[labels_N] + torch.randn(512, 3, SIDE, SIDE, generator=generator)
    dataset = torch.utils.data.TensorDataset(
        x_NCYX.to(cstorch.amp.get_floating_point_dtype()), labels_N.to(torch.int32)
    )
    return common.loader_of(dataset, size)


def main() -> None:
    chosen = common.parse()
    backend = common.open_backend(chosen)
    with backend.device:
        model = Vit(chosen.layers, chosen.hidden, chosen.dropout)
    loss = nn.CrossEntropyLoss(label_smoothing=0.0)
    common.train(
        chosen,
        backend,
        model,
        lambda model: cstorch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4),
        lambda optimizer: cstorch.optim.lr_scheduler.CosineDecayLR(optimizer, 0.02, 0.0, 100),
        lambda model, x_BCYX, labels_B: loss(model(x_BCYX), labels_B.long()),
        cstorch.utils.data.DataLoader(batches, chosen.batch, chosen.seed),
    )


if __name__ == "__main__":
    main()
