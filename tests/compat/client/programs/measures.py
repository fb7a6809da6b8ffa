"""A GPT-2 that measures itself on the device: accuracy and perplexity over all steps so far, and its logits whole.

Training, then evaluation. OUT/losses.json has for each step loss, accuracy, perplexity, and the norm of each sequence's logits.
"""

from __future__ import annotations

import json

import cerebras.pytorch as cstorch
import common
import gpt2
import torch
from cerebras.pytorch.metrics import AccuracyMetric, PerplexityMetric
from torch.nn import functional as F


def main() -> None:
    chosen = common.parse(batch=8, steps=4, hidden=32, layers=1)
    backend = common.open_backend(chosen)
    with backend.device:
        model = gpt2.Gpt2(chosen.layers, chosen.hidden, chosen.dropout)
        accuracy, perplexity = AccuracyMetric("accuracy"), PerplexityMetric("perplexity")
    compiled = cstorch.compile(model, backend)
    optimizer = cstorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen: list[list[float]] = []

    def measured(
        tokens_BL: torch.Tensor, labels_BL: torch.Tensor, weights_BL: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        logits_BLV = compiled(tokens_BL)
        losses_N = F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten().long(), reduction="none")
        loss = (losses_N * weights_BL.flatten()).sum()
        with torch.no_grad():
            right = accuracy(labels=labels_BL, predictions=logits_BLV.argmax(-1).int(), weights=weights_BL)
            surprise = perplexity(labels_BL, loss=loss.float(), weights=weights_BL)
        return loss / tokens_BL.numel(), right, surprise, logits_BLV

    @cstorch.trace
    def train_step(*batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model.train()
        optimizer.zero_grad()
        loss, *rest = measured(*batch)
        loss.backward()
        optimizer.step()
        return loss, *rest

    @cstorch.trace
    @torch.no_grad()
    def eval_step(*batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model.eval()
        return measured(*batch)

    @cstorch.step_closure
    def note(
        loss: torch.Tensor, right: torch.Tensor, surprise: torch.Tensor, logits_BLV: torch.Tensor
    ) -> None:
        norms_B = logits_BLV.float().flatten(1).norm(dim=1)
        seen.append([float(loss), float(right), float(surprise), *norms_B.tolist()])
        (chosen.folder / "losses.json").write_text(json.dumps(seen) + "\n")

    for step in (train_step, eval_step):
        loader = cstorch.utils.data.DataLoader(batches, chosen.batch, chosen.seed)
        for batch in cstorch.utils.data.DataExecutor(loader, num_steps=chosen.steps):
            note(*step(*batch))


def batches(size: int, seed: int) -> torch.utils.data.DataLoader:
    """Sequences of drawn tokens, of which some do not count."""
    generator = torch.Generator().manual_seed(seed)
    tokens_NL = torch.randint(0, 64, (256, 17), generator=generator).int()
    weights_NL = (torch.rand(256, 16, generator=generator) < 0.8).to(cstorch.amp.get_floating_point_dtype())
    dataset = torch.utils.data.TensorDataset(tokens_NL[:, :-1].clone(), tokens_NL[:, 1:].clone(), weights_NL)
    return common.loader_of(dataset, size)


if __name__ == "__main__":
    main()
