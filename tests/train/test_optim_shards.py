"""Update rules on row shards: the same numbers where a rule says so, and choices by the whole weight."""

from __future__ import annotations

import pytest
import torch

from openwafer.train import optim

LR = optim.WarmupCosine(peak=1e-2, warmup_steps=2, steps=6)

ELEMENTWISE = {
    "sgd": lambda: optim.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda: optim.Adam(LR, weight_decay=0.1),
    "adamw": lambda: optim.AdamW(LR, weight_decay=0.1, decay="matrices"),
    "lion": lambda: optim.Lion(LR, weight_decay=0.1),
    "clipped by value": lambda: optim.clip_by_value(optim.AdamW(LR), 0.5),
    "static scale": lambda: optim.StaticLossScale(optim.AdamW(LR), 8.0),
    **{
        f"torch {kind.__name__}": lambda kind=kind: optim.from_torch(kind, lr=1e-2)
        for kind in (
            torch.optim.ASGD,
            torch.optim.Adadelta,
            torch.optim.Adagrad,
            torch.optim.Adamax,
            torch.optim.NAdam,
            torch.optim.RAdam,
            torch.optim.RMSprop,
            torch.optim.Rprop,
        )
    },
}


def run(rule, weights, grads, steps=3):
    state, shared = {name: rule.state(name, w) for name, w in weights.items()}, rule.globals()
    for step in range(steps):
        made = rule.update(weights, {name: g * (step + 1) for name, g in grads.items()}, state, shared)
        weights, state, shared = made.weights, made.state, made.globals
    return weights, state


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_rule_that_says_so_updates_shards_as_the_whole(name):
    """Bit for bit, state included: entries like the weight are its rows, 0-dim ones are equal in all shards."""
    generator = torch.Generator().manual_seed(0)
    weight, grad = (torch.randn(64, 16, generator=generator) for _ in range(2))
    rule = ELEMENTWISE[name]()
    assert rule.is_elementwise("w", weight)

    whole, whole_state = run(rule, {"w": weight}, {"w": grad})
    shards = {"w[0:16]": slice(0, 16), "w[16:64]": slice(16, 64)}
    cut, cut_state = run(
        rule.for_shards({shard: ("w", weight) for shard in shards}),
        {shard: weight[rows] for shard, rows in shards.items()},
        {shard: grad[rows] for shard, rows in shards.items()},
    )

    assert torch.equal(torch.cat(list(cut.values())), whole["w"])
    for key, value in whole_state["w"].items():
        for shard, rows in shards.items():
            assert torch.equal(cut_state[shard][key], value[rows] if value.ndim else value), key


class Rescaled(torch.optim.SGD):
    """Another optimizer in the clothes of a known one."""


@pytest.mark.parametrize(
    "rule",
    [
        optim.Adafactor(),
        optim.clip_by_global_norm(optim.Adafactor(), 1.0),
        optim.from_torch(torch.optim.Adafactor, lr=1e-2),
        optim.from_torch(Rescaled, lr=1e-2),
    ],
)
def test_a_rule_that_looks_across_elements_or_may_says_no(rule):
    """Row and column means of a shard are not those of the whole, and a subclass may do anything."""
    assert not rule.is_elementwise("w", torch.zeros(4, 4))


def test_each_group_answers_for_its_own_weights():
    """A weight in no group gets no gradient, so that nobody can promise anything about it."""
    rule = optim.per_group(
        [
            (lambda name, w: name == "table", optim.Adafactor()),
            (lambda name, w: name == "head", optim.AdamW()),
        ]
    )

    answers = {name: rule.is_elementwise(name, torch.zeros(2, 2)) for name in ("table", "head", "other")}
    assert answers == {"table": False, "head": True, "other": False}


def test_groups_and_decay_are_chosen_by_the_whole_weight():
    """Name and shape of a shard are ours; a user's choice sees the weight that the module has."""
    seen = []

    def tall(name, weight):
        seen.append((name, tuple(weight.shape)))
        return weight.shape[0] > 5

    whole = torch.ones(8, 2)
    shards = {"w[0:4]": ("w", whole), "w[4:8]": ("w", whole)}
    rule = optim.per_group(
        [(tall, optim.AdamW(lr=1.0, weight_decay=0.5, decay=tall)), (lambda *_: True, optim.SGD(0.0))]
    ).for_shards(shards)

    weights, _ = run(
        rule, {name: whole[:4] for name in shards}, {name: torch.zeros(4, 2) for name in shards}, 1
    )

    assert set(seen) == {("w", (8, 2))}
    assert all(torch.equal(value, torch.full((4, 2), 0.5)) for value in weights.values())
