"""Your own module, Dataset and DataLoader, as they are, on a cluster of two systems.

    python examples/own_model.py

Two spirals are told apart by their (x, y). Takes seconds; leaves a run folder in runs/spirals.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import openwafer as ow


class Spirals(Dataset):
    """Points of two spirals: (x, y) float32 [2], and which spiral, 0 or 1."""

    def __init__(self, points: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.label = torch.arange(points) % 2
        turn = 7 * torch.rand(points, generator=generator)
        angle = turn + torch.pi * self.label
        self.xy = torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 7

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.xy[index], self.label[index]


class Classifier(nn.Module):
    """(x, y) [B, 2] in, logits [B, 2] out."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 2)

    def forward(self, xy: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.first(xy))
        for layer in self.hidden:
            x = x + F.gelu(layer(x))
        return self.last(x)


def accuracy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(1) == label).float().mean()


torch.manual_seed(0)
model = Classifier()
train = DataLoader(Spirals(2048, seed=0), batch_size=64, shuffle=True, drop_last=True)
held_out = DataLoader(Spirals(512, seed=1), batch_size=64)

trainer = ow.Trainer(
    model,
    loss=F.cross_entropy,
    metrics={"accuracy": accuracy},
    optimizer=ow.AdamW(lr=3e-3),
    # Systems as threads: this model is trained before two processes have started.
    cluster=ow.LocalCluster(systems=2, processes=False),
    name="spirals",
)
result = trainer.fit(train, held_out, steps=200, eval_every=100, overwrite=True)

# `model` now holds the trained weights and is a plain PyTorch module as before.
points = Spirals(512, seed=2)
with torch.no_grad():
    print(f"accuracy on new points: {accuracy(model(points.xy), points.label):.3f}")
print(f"loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f}; checkpoint {result.checkpoint}")
