"""Whole runs: evaluation, metrics, the user's own loader, and runs that stop and go on."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from equality_cases import (
    BATCH,
    STEPS,
    Case,
    Listed,
    case_of,
    numbers,
    plain,
    quick,
    rows_of,
    same_bits,
    spread_of,
    streamed,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from openwafer.base import InputError
from openwafer.train.optim import AdamW, WarmupCosine, clip_by_global_norm


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


class Evaluated(nn.Module):
    """Behaves otherwise in evaluation: dropout and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = x * 0.5 if self.training else self.drop(x)  # a plain training loop can repeat this
        return self.head(torch.relu(self.middle(x)))


@cache
def evaluated() -> Case:
    torch.manual_seed(0)
    return Case("evaluated", Evaluated(), numbers(16, 8), F.cross_entropy)


# --- evaluation and metrics -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("execution", "systems", "store", "microbatch"),
    [
        ("weight_streaming", 1, "ram", None),
        ("weight_streaming", 1, "disk", 4),
        ("pipelined", 2, "ram", None),
        ("pipelined", 3, "disk", 4),
    ],
)
@pytest.mark.parametrize("which", ["evaluated", "gpt", "hf_gpt2"])
def test_evaluation_is_that_of_the_module_in_eval_mode(
    which, execution, systems, store, microbatch, tmp_path
):
    """Between training steps, with the weights and statistics of that step, and without touching either."""
    case = evaluated() if which == "evaluated" else case_of(which)
    held_out = Listed(list(reversed(case.data.batches)))
    sizes = (microbatch,) * 2 if microbatch else (BATCH,)

    found = streamed(
        case,
        tmp_path,
        execution=execution,
        systems=systems,
        store=store,
        microbatch=microbatch,
        steps=5,
        eval=held_out,
        eval_every=2,
        eval_batches=3,
    )

    expected = []
    for step in (2, 4, 5):
        plain(case, (sizes,), steps=step)
        case.module.eval()
        losses = []
        with torch.no_grad():
            for batch in held_out.batches[:3]:
                parts = [
                    float(case.loss_of(rows_of(batch, start, start + size))) * size
                    for start, size in zip(range(0, BATCH, sizes[0]), sizes, strict=True)
                ]
                losses.append(sum(parts) / BATCH)
        expected.append((step, sum(losses) / 3))
    if which == "hf_gpt2":  # tied, and its plain forward hides its mask: see as_captured
        for (step, loss), (other, value) in zip(found.result.eval_losses, expected, strict=True):
            assert step == other
            assert abs(loss - value) <= 8 * spread_of(case, steps=5).loss
    else:
        assert list(found.result.eval_losses) == expected
        same_bits(found, plain(case, (sizes,), steps=5))


@pytest.mark.parametrize("systems", [1, 2])
def test_metrics_are_means_over_the_samples(systems, tmp_path):
    """Weighted by samples over microbatches and systems, as the loss is."""

    def accuracy(logits, target):
        return (logits.argmax(-1) == target).float().mean()

    case = evaluated() if systems == 1 else case_of("mnist")
    found = streamed(case, tmp_path, systems=systems, microbatch=3, steps=1, metrics={"accuracy": accuracy})

    batch = case.data.batch(0)
    module = case.fresh()
    if systems == 1:
        shown = [module(part) for part in batch[0].split([3, 3, 2])]
        logits = torch.cat(shown)
    else:
        logits = module(batch[0])
    assert found.metrics[0]["accuracy"] == pytest.approx(float(accuracy(logits, batch[1])), abs=2**-22)


# --- the user's own loader --------------------------------------------------------------------------------


@pytest.mark.parametrize("systems", [1, 2])
def test_a_data_loader_is_read_as_a_plain_loop_reads_it(systems, tmp_path):
    """A shuffling DataLoader with a generator of its own, over two epochs and a bit."""
    case = case_of("mnist")
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(40, 64, generator=generator)
    targets = torch.randint(10, (40,), generator=generator)

    def loader():
        return DataLoader(
            TensorDataset(inputs, targets),
            batch_size=BATCH,
            shuffle=True,
            generator=torch.Generator().manual_seed(4),
        )

    own = loader()
    batches = [tuple(batch) for _ in range(3) for batch in own]
    read = Case("read", case.fresh(), Listed(batches), case.loss)

    found = streamed(case, tmp_path, data=loader(), steps=12, systems=systems)

    same_bits(found, plain(read, ((BATCH // systems,),) * systems, steps=12))


# --- stopping and going on --------------------------------------------------------------------------------


def _rule():
    """Something of everything that a checkpoint must carry: moments, a schedule's step, a waiting update."""
    return clip_by_global_norm(
        AdamW(lr=WarmupCosine(peak=3e-3, warmup_steps=4, steps=STEPS), weight_decay=0.1), 0.5
    )


@pytest.mark.parametrize("rule", [None, "clipped"])
@pytest.mark.parametrize(
    ("execution", "systems", "store"),
    [
        ("weight_streaming", 1, "ram"),
        ("weight_streaming", 1, "disk"),
        ("weight_streaming", 2, "ram"),
        ("weight_streaming", 2, "disk"),
        ("pipelined", 2, "ram"),
        ("pipelined", 3, "disk"),
    ],
)
def test_a_run_that_stops_and_goes_on_has_the_bits_of_one_run(execution, systems, store, rule, tmp_path):
    """Weights, moments, step count, batch order and random keys come back; nothing else decides the numbers."""
    from test_equality_random import dropping

    options = {"execution": execution, "systems": systems, "store": store, "microbatch": 2, "seed": 5}
    if rule:
        options["optimizer"] = _rule()
    whole = streamed(dropping(), tmp_path / "whole", **options)

    first = streamed(dropping(), tmp_path / "parts", steps=5, **options)
    second = streamed(dropping(), tmp_path / "parts", steps=STEPS, resume=True, **options)

    assert first.losses + second.losses == whole.losses
    assert second.result.steps == STEPS
    for name in whole.checkpoint.types:
        assert torch.equal(second.checkpoint.tensor(name), whole.checkpoint.tensor(name)), name
    assert second.checkpoint.globals == whole.checkpoint.globals


def test_a_run_goes_on_from_a_checkpoint_in_its_middle(tmp_path):
    """Periodic checkpoints do not disturb the run, and the last one is where it goes on."""
    case = evaluated()
    whole = streamed(case, tmp_path / "whole")

    first = streamed(case, tmp_path / "parts", steps=7, checkpoint_every=2, keep_checkpoints=2)
    second = streamed(case, tmp_path / "parts", resume=True, checkpoint_every=2)

    assert first.losses + second.losses == whole.losses
    same_bits(type(whole)(whole.losses, second.weights, result=second.result, logs=[], metrics=[]), whole)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"store": "ram"}, {"store": "disk"}),
        ({"store": "disk"}, {"store": "ram"}),
        ({"execution": "weight_streaming"}, {"execution": "pipelined", "systems": 3}),
        ({"execution": "pipelined", "systems": 2}, {"execution": "weight_streaming"}),
        ({"recompute": True}, {"recompute": False}),
    ],
)
def test_a_run_may_go_on_elsewhere(before, after, tmp_path):
    """Where weights live and how layers are placed is no part of the numbers: the microbatches are the same."""
    case = case_of("gpt")
    whole = streamed(case, tmp_path / "whole", microbatch=2)

    first = streamed(case, tmp_path / "parts", steps=5, microbatch=2, **before)
    second = streamed(case, tmp_path / "parts", resume=True, microbatch=2, **after)

    assert first.losses + second.losses == whole.losses
    assert not [name for name, value in whole.weights.items() if not torch.equal(second.weights[name], value)]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (4, 3)])
def test_a_run_may_go_on_with_another_number_of_systems(before, after, tmp_path):
    """Gradients then add up in another order, so the run lies within the spread of plain runs; see Spread."""
    case = case_of("gpt")

    first = streamed(case, tmp_path, steps=5, systems=before)
    second = streamed(case, tmp_path, resume=True, systems=after)

    joined = type(second)(
        first.losses + second.losses, second.weights, result=second.result, logs=[], metrics=[]
    )
    assert not spread_of(case).outside(joined)


def test_going_on_needs_more_steps(tmp_path):
    """A run that is complete is not run again by accident."""
    streamed(case_of("mnist"), tmp_path, steps=3)

    with pytest.raises(InputError, match="has 3 steps already, and steps=3 asks for no more"):
        streamed(case_of("mnist"), tmp_path, steps=3, resume=True)
