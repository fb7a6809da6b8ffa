"""The update part of a step, cut along MemoryX's records, equals torch's optimizers on whole models."""

from __future__ import annotations

import pytest
import torch
from equality_cases import (
    BATCH,
    STEPS,
    adamw,
    as_captured,
    case_of,
    distance,
    plain,
    quick,
    same_bits,
    streamed,
)

from openwafer.train.optim import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Exponential,
    InverseSqrt,
    Lion,
    PiecewiseConstant,
    StaticLossScale,
    WarmupCosine,
    clip_by_global_norm,
    clip_by_value,
    from_torch,
    per_group,
)

CLUSTERS = [
    ("weight_streaming", 1, "ram", None, ((BATCH,),)),
    ("weight_streaming", 2, "disk", 2, ((2, 2), (2, 2))),
    ("pipelined", 3, "ram", 2, ((2, 2, 2, 2),)),
]
over_clusters = pytest.mark.parametrize(
    ("execution", "systems", "store", "microbatch", "replicas"), CLUSTERS, ids=["one", "replicas", "stages"]
)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


def options_of(execution, systems, store, microbatch):
    return {"execution": execution, "systems": systems, "store": store, "microbatch": microbatch}


class ByRule(torch.optim.Optimizer):
    """A torch optimizer that applies an update rule to all weights of a module at once."""

    def __init__(self, module, rule):
        self.names = {parameter: name for name, parameter in module.named_parameters()}
        super().__init__(list(self.names), {})
        self.rule = rule
        self.shared = rule.globals()
        self.kept = {name: rule.state(name, weight.detach()) for weight, name in self.names.items()}

    @torch.no_grad()
    def step(self):
        weights = {name: weight.detach() for weight, name in self.names.items()}
        grads = {name: weight.grad for weight, name in self.names.items()}
        updated = self.rule.update(weights, grads, self.kept, self.shared)
        self.kept, self.shared = updated.state, updated.globals
        for name, weight in weights.items():
            weight.copy_(updated.weights[name])


# --- clipping and scaling ---------------------------------------------------------------------------------


@over_clusters
@pytest.mark.parametrize("model", ["gpt", "hf_llama"])
def test_clipping_by_global_norm_is_clip_grad_norm(
    model, execution, systems, store, microbatch, replicas, tmp_path
):
    """Every step is clipped: each weight's norm is taken where it lives, the norm of norms across records."""
    norms = []

    def clip(module, *_):
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), 0.05, foreach=False)))

    case = case_of(model)
    expected = plain(case, replicas, before_update=clip, forward=as_captured)
    rule = clip_by_global_norm(AdamW(lr=3e-3, weight_decay=0.1), 0.05)

    found = streamed(case, tmp_path, optimizer=rule, **options_of(execution, systems, store, microbatch))

    same_bits(found, expected)
    assert [entry["grad_norm"] for entry in found.logs] == norms
    assert min(norms) > 0.05
    assert found.plan.update.waits


@over_clusters
def test_clipping_by_value_is_clip_grad_value(execution, systems, store, microbatch, replicas, tmp_path):
    """It needs no other weight's gradient, so no update waits."""

    def clip(module, *_):
        torch.nn.utils.clip_grad_value_(module.parameters(), 1e-3, foreach=False)

    case = case_of("gpt")
    rule = clip_by_value(AdamW(lr=3e-3, weight_decay=0.1), 1e-3)

    found = streamed(case, tmp_path, optimizer=rule, **options_of(execution, systems, store, microbatch))

    same_bits(found, plain(case, replicas, before_update=clip))
    assert not found.plan.update.waits


def test_a_static_scale_of_a_power_of_two_changes_no_bit(tmp_path):
    """Multiplying by 2**10 and dividing again is exact as long as nothing overflows or vanishes."""
    rule = StaticLossScale(AdamW(lr=3e-3, weight_decay=0.1), 1024.0)

    found = streamed(case_of("mnist"), tmp_path, optimizer=rule)

    same_bits(found, plain(case_of("mnist")))


# --- schedules --------------------------------------------------------------------------------------------

SCHEDULES = {
    "warmup": WarmupCosine(peak=3e-3, warmup_steps=3, steps=8, end=3e-4),
    "exponential": Exponential(start=3e-3, gamma=0.8),
    "inverse": InverseSqrt(peak=3e-3, warmup_steps=4),
    "pieces": PiecewiseConstant(values=(3e-3, 1e-3, 3e-4), boundaries=(3, 6)),
}


@over_clusters
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_sets_the_learning_rate_of_each_step(
    name, execution, systems, store, microbatch, replicas, tmp_path
):
    """The step count lives in MemoryX; the rate of a step is what a plain loop would write into the group."""
    rates = []

    def set_rate(_module, optimizer, step):
        rates.append(float(SCHEDULES[name](torch.tensor(float(step)))))
        optimizer.param_groups[0]["lr"] = rates[-1]

    case = case_of("gpt")
    expected = plain(case, replicas, before_update=set_rate)
    rule = AdamW(lr=SCHEDULES[name], weight_decay=0.1)

    found = streamed(case, tmp_path, optimizer=rule, **options_of(execution, systems, store, microbatch))

    same_bits(found, expected)
    assert [entry["lr"] for entry in found.logs] == pytest.approx(rates, rel=2**-23)
    assert len(set(rates)) > 2


# --- optimizers -------------------------------------------------------------------------------------------

BITWISE = {
    "sgd": (SGD(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "adam": (Adam(lr=3e-3), lambda p: torch.optim.Adam(p, lr=3e-3, fused=True)),
    "rmsprop": (
        from_torch(torch.optim.RMSprop, lr=1e-3, momentum=0.5),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, foreach=False),
    ),
    "adagrad": (
        from_torch(torch.optim.Adagrad, lr=1e-2),
        lambda p: torch.optim.Adagrad(p, lr=1e-2, foreach=False),
    ),
}


@over_clusters
@pytest.mark.parametrize("name", BITWISE)
def test_other_optimizers_are_torchs_own(name, execution, systems, store, microbatch, replicas, tmp_path):
    """Optimizers whose scalars are constants have torch's bits (see `from_torch`)."""
    rule, optimizer = BITWISE[name]
    case = case_of("gpt")

    found = streamed(case, tmp_path, optimizer=rule, **options_of(execution, systems, store, microbatch))

    same_bits(found, plain(case, replicas, optimizer=optimizer))


@over_clusters
def test_nadam_is_torchs_own_to_a_rounding_per_step(
    execution, systems, store, microbatch, replicas, tmp_path
):
    """`from_torch` promises 1e-6 of the step: torch keeps NAdam's scalars in Python doubles, the graph in tensors.

    A weight moves by at most lr a step, so ten steps differ by at most ten millionths of lr plus the roundings of the
    weight itself, and the runs below by what such differences do to the next gradients: less than a hundredth of a step
    in all, where another bias correction, say, differs by whole steps.
    """
    case = case_of("gpt")
    rule = from_torch(torch.optim.NAdam, lr=1e-3)

    found = streamed(case, tmp_path, optimizer=rule, **options_of(execution, systems, store, microbatch))

    expected = plain(case, replicas, optimizer=lambda p: torch.optim.NAdam(p, lr=1e-3, foreach=False))
    assert max(distance(found.weights, expected.weights).values()) < 1e-2 * 1e-3
    moved = distance(found.weights, {name: case.initial[name] for name in found.weights})
    assert min(moved.values()) > 1e-4


def test_a_torch_optimizer_over_the_parameters_is_taken_as_it_is(tmp_path):
    """What a user has at hand, groups and all."""

    def grouped(parameters):
        every = list(parameters)
        return torch.optim.RMSprop(
            [{"params": every[:3], "lr": 1e-3}, {"params": every[3:], "lr": 1e-4}], foreach=False
        )

    case = case_of("mnist")

    same_bits(streamed(case, tmp_path, optimizer=grouped), plain(case, optimizer=grouped))


RULES = {
    "adafactor": Adafactor(lr=1e-2),
    "lion": Lion(lr=1e-3, weight_decay=0.1),
    "groups": per_group(
        [(lambda name, weight: weight.ndim < 2, SGD(lr=0.1)), (lambda *_: True, Lion(lr=1e-3))]
    ),
}


@over_clusters
@pytest.mark.parametrize("name", RULES)
def test_a_rule_cut_along_records_is_the_rule_applied_at_once(
    name, execution, systems, store, microbatch, replicas, tmp_path
):
    """Cutting, streaming and writing in place leave the arithmetic of a weight as it is."""
    case = case_of("gpt")

    found = streamed(
        case, tmp_path, optimizer=RULES[name], **options_of(execution, systems, store, microbatch)
    )

    expected = plain(case, replicas, optimizer=lambda _: ByRule(case.module, RULES[name]))
    same_bits(found, expected)


def test_every_step_updates_once(tmp_path):
    """The step count in the checkpoint is the number of updates, whatever the number of microbatches."""
    found = streamed(case_of("mnist"), tmp_path, microbatch=1, optimizer=adamw)

    assert found.checkpoint.globals["step"] == STEPS
