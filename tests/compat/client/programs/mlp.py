"""A small MLP with AdamW and clipping by the global norm."""

from __future__ import annotations

import cerebras.pytorch as cstorch
import common
import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(32, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 10)

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x_BF)))))


def batches(size: int, seed: int) -> torch.utils.data.DataLoader:
    """Labels that a linear map of the inputs decides; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x_NF = torch.randn(1024, 32, generator=generator)
    labels_N = (x_NF @ torch.randn(32, 10, generator=generator)).argmax(-1).to(torch.int32)
    dataset = torch.utils.data.TensorDataset(x_NF.to(cstorch.amp.get_floating_point_dtype()), labels_N)
    return common.loader_of(dataset, size)


def main() -> None:
    chosen = common.parse(batch=16)
    backend = common.open_backend(chosen)
    with backend.device:
        model = Mlp(chosen.hidden)
    loss = nn.CrossEntropyLoss()
    common.train(
        chosen,
        backend,
        model,
        lambda model: cstorch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01),
        None,
        lambda model, x_BF, labels_B: loss(model(x_BF), labels_B.long()),
        cstorch.utils.data.DataLoader(batches, chosen.batch, chosen.seed),
        max_gradient_norm=1.0,
    )


if __name__ == "__main__":
    main()
