"""Training, evaluation, training: weights stay on the appliance between the sessions."""

from __future__ import annotations

import json

import cerebras.pytorch as cstorch
import common
import mlp
import torch
from torch import nn


def main() -> None:
    chosen = common.parse(batch=16, steps=5)
    backend = common.open_backend(chosen)
    with backend.device:
        model = mlp.Mlp(chosen.hidden)
    compiled = cstorch.compile(model, backend)
    optimizer = cstorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    seen: list[list[float]] = []

    @cstorch.trace
    def train_step(x_BF: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        model.train()
        optimizer.zero_grad()
        loss = loss_of(compiled(x_BF), labels_B.long())
        loss.backward()
        optimizer.step()
        return loss

    @cstorch.trace
    @torch.no_grad()
    def eval_step(x_BF: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        model.eval()
        return loss_of(compiled(x_BF), labels_B.long())

    @cstorch.step_closure
    def note(loss: torch.Tensor) -> None:
        seen[-1].append(loss.item())
        (chosen.folder / "losses.json").write_text(json.dumps(seen) + "\n")

    for step, seed in ((train_step, 1), (eval_step, 2), (train_step, 1)):
        seen.append([])
        loader = cstorch.utils.data.DataLoader(mlp.batches, chosen.batch, seed)
        for batch in cstorch.utils.data.DataExecutor(loader, num_steps=chosen.steps):
            note(step(*batch))


if __name__ == "__main__":
    main()
