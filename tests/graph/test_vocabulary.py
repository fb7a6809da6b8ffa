"""Chunked projection and cross entropy: the rewrite, its kernels, and the peak that it avoids."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openwafer.artifact import TensorType
from openwafer.cluster._losses import linear_loss, linear_loss_backward
from openwafer.graph import PlanOptions, capture, plan_job
from openwafer.graph.passes import _vocabulary
from openwafer.train.optim import AdamW

IGNORED = -100


class Head(nn.Module):
    """An embedding, a hidden layer and a projection onto a vocabulary."""

    def __init__(self, vocabulary: int, width: int = 16, bias: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=bias)

    def forward(self, ids):
        return self.head(torch.tanh(self.hidden(self.embedding(ids))))


def step(module, call, inputs):
    logits = call(inputs["ids"])
    return F.cross_entropy(logits.float().flatten(0, 1), inputs["labels"].flatten())


def accuracy_too(module, call, inputs):
    logits = call(inputs["ids"])
    loss = F.cross_entropy(logits.float().flatten(0, 1), inputs["labels"].flatten())
    return loss, {"mean": logits.mean()}


def planned(vocabulary, step_function=step, **options):
    with torch.device("meta"):
        module = Head(vocabulary, **options)
    kind = TensorType("int64", (32,))

    def capture_step(samples, train):
        module.train(train)
        rule = AdamW(lr=1e-3) if train else None
        return capture(module, step_function, {"ids": kind, "labels": kind}, samples, rule)

    return plan_job("head", capture_step, PlanOptions(batch=4, evaluate=False))


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_equal_the_whole(reduction, bias):
    """Rows are independent but for their sum, so float64 chunks agree to its rounding, also with ignored targets."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(37, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(11, generator=generator, dtype=torch.float64, requires_grad=True) if bias else None
    target = torch.randint(11, (37,), generator=generator)
    target[3:9] = IGNORED
    names = {0: "none", 1: "mean", 2: "sum"}
    whole = F.cross_entropy(F.linear(h, weight, b), target, reduction=names[reduction])
    gradient = torch.ones_like(whole) * 0.7
    inputs = [h, weight] + ([b] if b is not None else [])
    expected = torch.autograd.grad(whole, inputs, gradient)

    with torch.no_grad():
        loss, count = linear_loss(h, weight, b, target, reduction, IGNORED, 5, torch.float64)
        found = linear_loss_backward(
            gradient, h, weight, b, target, count, reduction, IGNORED, 5, torch.float64
        )

    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
    assert count == (target != IGNORED).sum()
    for ours, theirs in zip(found, expected, strict=False):
        torch.testing.assert_close(
            ours.double(), theirs, rtol=2e-6, atol=1e-6
        )  # dW and db are summed in float32


def test_a_large_vocabulary_does_not_set_the_peak():
    """Logits of 128 rows over 400,000 words take 205 MB each; the plan holds chunks of 32 MiB of them instead."""
    plan = planned(400_000)

    bodies = [plan.body[layer.forward.body] for layer in plan.layers[4]]
    assert any(instr.op == "wafer.linear_loss" for body in bodies for instr in body.instrs)
    logits = 4 * 32 * 400_000 * 4
    weights = 400_000 * 16 * 4
    assert plan.systems[0].memory.activations < logits + weights
    assert any("chunks" in note for note in plan.notes)


def test_a_small_vocabulary_is_left_alone():
    """Below the threshold the operators stay ATen's own, so that numbers stay those of eager PyTorch."""
    plan = planned(1000)

    assert not any("linear_loss" in text for text in plan.bodies.values())


def test_logits_that_something_else_reads_are_left_alone():
    """A metric over the logits needs them whole."""
    plan = planned(400_000, accuracy_too)

    assert not any("linear_loss" in text for text in plan.bodies.values())


def test_a_chunked_run_trains_like_the_whole(monkeypatch, tmp_path):
    """Forward, backward and update through the roles: ten losses agree to float32 rounding of the row sums."""
    import openwafer as ow

    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(50, (4, 32), generator=generator) for _ in range(10)]

    def losses(folder):
        torch.manual_seed(0)
        trainer = ow.Trainer(
            Head(50),
            loss=lambda logits, batch: F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()),
            optimizer=ow.AdamW(lr=1e-2),
            cluster=ow.LocalCluster(threads=1, matmul="torch"),
            folder=folder,
        )
        return trainer.fit([{"ids": b, "labels": b} for b in batches], steps=10).losses

    whole = losses(tmp_path / "whole")
    monkeypatch.setattr(_vocabulary, "CHUNK_FROM_BYTES", 1)
    monkeypatch.setattr(_vocabulary, "CHUNK_BYTES", 4 * 50 * 7)
    chunked = losses(tmp_path / "chunked")

    assert whole[-1] < whole[0]
    # 128 rows summed in another order: relative error of a sum is below rows * eps = 1.5e-5.
    torch.testing.assert_close(torch.tensor(chunked), torch.tensor(whole), rtol=128 * 1.2e-7, atol=0)
