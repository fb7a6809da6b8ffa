"""Equality for what modules do beside matrix products: shared, frozen and unused weights, batch statistics, odd shapes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from equality_cases import Case, case_of, numbers, plain, quick, same_bits, spread_of, streamed, token_batches
from torch import nn

CLUSTERS = [
    ("weight_streaming", 1, "ram"),
    ("weight_streaming", 2, "disk"),
    ("pipelined", 2, "ram"),
    ("pipelined", 3, "disk"),
]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target)


def replicas_of(execution: str, systems: int, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Microbatches by replica, where a replica alone would have `sizes`; two replicas share 8 samples as 4 and 4."""
    if execution == "pipelined" or systems == 1:
        return (sizes,)
    assert systems == 2
    return {(8,): ((4,), (4,)), (2, 2, 2, 2): ((2, 2), (2, 2)), (3, 3, 2): ((3, 1), (3, 1))}[sizes]


# --- microbatches and recomputation -----------------------------------------------------------------------


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
@pytest.mark.parametrize("model", ["gpt", "vit"])
def test_microbatches_need_not_divide_the_batch(model, execution, systems, store, tmp_path):
    """8 samples in microbatches of 3, 3 and 2 (3 and 1 on each of two systems) count by their size."""
    found = streamed(
        case_of(model), tmp_path, systems=systems, execution=execution, store=store, microbatch=3
    )

    same_bits(found, plain(case_of(model), replicas_of(execution, systems, (3, 3, 2))))


def test_systems_need_not_divide_the_batch(tmp_path):
    """8 samples on 3 systems are 3, 3 and 2; SwarmX adds (0 + 1) + 2."""
    found = streamed(case_of("gpt"), tmp_path, systems=3, microbatch=2)

    same_bits(found, plain(case_of("gpt"), ((2, 1), (2, 1), (2,))))


def test_one_sample_per_system_is_enough(tmp_path):
    """As many systems as samples."""
    found = streamed(case_of("mnist"), tmp_path, systems=8)

    same_bits(found, plain(case_of("mnist"), ((1,),) * 8))


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
@pytest.mark.parametrize("model", ["gpt", "hf_gpt2", "hf_llama"])
def test_recomputing_activations_changes_no_bit(model, execution, systems, store, tmp_path):
    """The backward runs the same operators on the same values again."""
    options = {"systems": systems, "execution": execution, "store": store, "microbatch": 2}

    again = streamed(case_of(model), tmp_path / "again", recompute=True, **options)

    assert any(layer.recompute for layer in again.plan.layers[2])
    same_bits(again, streamed(case_of(model), tmp_path / "kept", **options))


# --- weights ----------------------------------------------------------------------------------------------


class SharedBlocks(nn.Module):
    """One block used three times between an embedding and a head that share a weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 16)
        self.block = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU())
        self.own = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 64, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids, labels):
        x = self.embedding(input_ids)
        for own in self.own:
            x = x + self.block(own(x))
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


class Detached(nn.Module):
    """The head's weight is read early on as well, where no gradient flows to it, but one flows past it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 16)

    def forward(self, x):
        x = torch.tanh(F.linear(self.first(x), self.head.weight.detach()))
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.head(x)


class Frozen(nn.Module):
    """Five linear layers, some of them frozen."""

    def __init__(self, frozen: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 8)
        for index in frozen:
            [*self.layers, self.head][index].requires_grad_(False)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class Unused(nn.Module):
    """A trainable weight that no forward reads, and a buffer that none changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.spare = nn.Linear(16, 16)
        self.second = nn.Linear(16, 8)
        self.register_buffer("scale", torch.full((16,), 0.5))

    def forward(self, x):
        return self.second(torch.relu(self.first(x)) * self.scale)


@cache
def shared() -> Case:
    torch.manual_seed(0)
    return Case("shared", SharedBlocks(), token_batches(), None)


@cache
def frozen(which: tuple[int, ...]) -> Case:
    torch.manual_seed(0)
    return Case("frozen", Frozen(which), numbers(16, 8), cross_entropy)


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
def test_weights_of_many_uses_get_the_sum_of_their_gradients(execution, systems, store, tmp_path):
    """A block used by three layers, a weight used at both ends: within the spread of plain runs.

    The order of additions differs from a plain loop's, which adds the uses within a microbatch first; see Spread.
    """
    found = streamed(shared(), tmp_path, systems=systems, execution=execution, store=store, microbatch=2)

    assert not spread_of(shared()).outside(found)


def test_weights_of_many_uses_and_one_microbatch_are_bitwise_equal(tmp_path):
    """With one microbatch the uses are added from the last to the first, as autograd does."""
    same_bits(streamed(shared(), tmp_path), plain(shared()))


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
def test_a_weight_is_not_updated_while_a_layer_still_reads_it(execution, systems, store, tmp_path):
    """Its gradient is complete after the head's backward, but an earlier layer's backward reads it as it was."""
    torch.manual_seed(0)
    case = Case("detached", Detached(), numbers(16, 16), cross_entropy)

    found = streamed(case, tmp_path, systems=systems, execution=execution, store=store, microbatch=2)

    same_bits(found, plain(case, replicas_of(execution, systems, (2, 2, 2, 2))))


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
@pytest.mark.parametrize("which", [(0,), (0, 1, 2), (1, 3), (4,), (1, 2, 3, 4)])
def test_frozen_weights_stay_and_the_others_train(which, execution, systems, store, tmp_path):
    """Below the first trained weight nothing has a backward; above it frozen layers pass gradients on."""
    case = frozen(which)

    found = streamed(case, tmp_path, systems=systems, execution=execution, store=store, microbatch=2)

    same_bits(found, plain(case, replicas_of(execution, systems, (2, 2, 2, 2))))
    still = [name for name, value in case.module.named_parameters() if not value.requires_grad]
    assert still
    assert all(torch.equal(found.weights[name], case.initial[name]) for name in still)


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_weights_without_a_gradient_stay_as_they_are(store, tmp_path):
    """torch leaves a parameter without gradient alone, its decay included; the plan's notes name it."""
    torch.manual_seed(0)
    case = Case("unused", Unused(), numbers(16, 8), cross_entropy)

    found = streamed(case, tmp_path, store=store)

    same_bits(found, plain(case))
    assert torch.equal(found.weights["spare.weight"], case.initial["spare.weight"])
    assert any("spare.weight" in note for note in found.plan.notes)


# --- buffers ----------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """Convolutions and a linear layer with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        )
        self.middle = nn.Linear(144, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        x = self.features(x.view(-1, 1, 8, 8)).flatten(1)
        return self.head(torch.relu(self.norm(self.middle(x))))


@cache
def normed() -> Case:
    torch.manual_seed(0)
    return Case("normed", Normed(), numbers(64, 8), cross_entropy)


@pytest.mark.parametrize("store", ["ram", "disk"])
@pytest.mark.parametrize(
    ("execution", "systems"), [("weight_streaming", 1), ("pipelined", 2), ("pipelined", 3)]
)
@pytest.mark.parametrize("microbatch", [None, 4])
def test_batch_statistics_are_those_of_plain_pytorch(microbatch, execution, systems, store, tmp_path):
    """Running means, variances and counts after ten steps; each microbatch updates them once, in order."""
    found = streamed(
        normed(), tmp_path, systems=systems, execution=execution, store=store, microbatch=microbatch
    )

    same_bits(found, plain(normed(), ((microbatch,) * 2 if microbatch else (8,),)))
    assert int(found.weights["norm.num_batches_tracked"]) == (20 if microbatch else 10)


@pytest.mark.parametrize("recompute", [False, True])
def test_batch_statistics_of_several_systems_are_those_of_the_first(recompute, tmp_path):
    """Each system normalises by its own samples, as DistributedDataParallel does; the first one's averages stay."""
    case = normed()
    kept: dict[str, torch.Tensor] = {}

    class OnlyFirst:
        def __init__(self, row: int) -> None:
            self.row = row

        def __enter__(self) -> None:
            if self.row:
                kept.update({name: value.clone() for name, value in case.module.named_buffers()})

        def __exit__(self, *_: object) -> None:
            if self.row:
                for name, value in case.module.named_buffers():
                    value.copy_(kept[name])

    expected = plain(case, ((4,), (4,)), around=lambda step, row: OnlyFirst(row))

    same_bits(streamed(case, tmp_path, systems=2, recompute=recompute), expected)


class NormedTokens(nn.Module):
    """Batch normalisation of tokens, whose features are the last dim."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        x = self.first(x.view(-1, 4, 8))
        return self.head(self.norm(x.transpose(1, 2)).transpose(1, 2)).mean(1)


@pytest.mark.parametrize("execution", ["weight_streaming", "pipelined"])
def test_a_result_that_lies_otherwise_than_traced_is_no_obstacle(execution, tmp_path):
    """Batch normalisation of a transposed tensor has other strides in fact than in tracing."""
    torch.manual_seed(0)
    case = Case("tokens", NormedTokens(), numbers(32, 8), cross_entropy)

    same_bits(streamed(case, tmp_path, execution=execution, microbatch=4), plain(case, ((4, 4),)))
