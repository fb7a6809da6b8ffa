"""The update is cut along records; only what needs all gradients waits for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from graph_cases import FAMILIES, captured, family

from openwafer.base import PlanError
from openwafer.graph.passes import BodyTable, assemble
from openwafer.train._initial import build_empty
from openwafer.train.optim import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    DynamicLossScale,
    Lion,
    PerWeightRule,
    StaticLossScale,
    Updated,
    UpdateRule,
    WarmupCosine,
    clip_by_global_norm,
    clip_by_value,
    from_torch,
    global_norm,
)


def update_of(rule: UpdateRule, name: str = "mnist"):
    return assemble(family(name).capture(rule=rule), BodyTable()).update


INDEPENDENT = {
    "sgd": SGD(lr=0.1),
    "momentum": SGD(lr=0.1, momentum=0.9),
    "adam": Adam(),
    "adamw": AdamW(),
    "scheduled": AdamW(lr=WarmupCosine(peak=1e-3, warmup_steps=2, steps=10)),
    "adafactor": Adafactor(lr=1e-2),
    "lion": Lion(lr=1e-3),
    "nadam": from_torch(torch.optim.NAdam, lr=1e-3),
    "clipped_values": clip_by_value(AdamW(), 1.0),
    "static_scale": StaticLossScale(AdamW()),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_weight_that_needs_its_own_gradient_only_does_not_wait(name):
    """Its update runs while the backward of earlier layers goes on."""
    update = update_of(INDEPENDENT[name])

    assert not update.waits
    assert all(record.apply for record in update.records)


WAITING = {
    "clipped": clip_by_global_norm(AdamW(), 1.0),
    "dynamic_scale": DynamicLossScale(AdamW()),
    "both": DynamicLossScale(clip_by_global_norm(AdamW(), 1.0)),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_needs_all_gradients_waits_and_carries_little(name):
    """A norm or a flag of each weight is made as its gradients arrive; the rest happens when all are there."""
    table = BodyTable()
    update = assemble(family("mnist").capture(rule=WAITING[name]), table).update

    assert update.waits
    assert update.across
    for record in update.records:
        body = table.bodies[record.before.body]
        assert all(body.type_of(index).nbytes <= 8 for index in body.outputs)
        assert set(record.before.inputs) <= {f"{n}/gradient" for n in captured("mnist").weights} | {
            "loss_scale",
            *update.begin.outputs,
        }


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_records_share_their_update(name):
    """One compiled update serves all equal layers."""
    made = assemble(captured(name), BodyTable())
    kinds: dict[tuple, set[str]] = {}
    for record, entry in zip(made.records, made.update.records, strict=True):
        if entry.apply:
            shapes = tuple((w.shape, w.trained) for w in record.weights)
            kinds.setdefault(shapes, set()).add(entry.apply.body)

    assert all(len(bodies) == 1 for bodies in kinds.values())


def test_logs_and_globals_come_from_the_update():
    """The step count, the rate and the norm are values of the update, not of a system."""
    rule = clip_by_global_norm(AdamW(lr=WarmupCosine(peak=1e-3, warmup_steps=2, steps=10)), 1.0)

    update = update_of(rule)

    assert {label for label, _ in update.logs} == {"lr", "weight_decay", "grad_norm"}
    assert [name for name, _ in update.new_globals] == ["step"]
    assert dict(update.logs)["grad_norm"] in update.across.outputs
    assert dict(update.logs)["lr"] in update.begin.outputs


class _Rule(UpdateRule):
    def globals(self):
        return {"step": torch.zeros(())}

    def state(self, name, weight):
        return {}

    def loss_scale(self, globals):
        return None


class Summing(_Rule):
    """Reports a norm of all weights and clips by one of all gradients, each added up in a loop over weights."""

    def update(self, weights, grads, state, globals):
        total, length = torch.zeros(()), torch.zeros(())
        for name in sorted(grads, key=lambda name: name[::-1]):
            total = total + grads[name].norm() ** 2
            length = length + weights[name].norm() ** 2
        new = {name: weights[name] - grads[name] / total.sqrt() for name in grads}
        logs = {"weights": length.sqrt(), "gradients": total.sqrt()}
        return Updated(weights=new, state={name: {} for name in grads}, globals=dict(globals), logs=logs)


@pytest.mark.parametrize("name", ["mnist", "gpt"])
def test_a_number_of_all_weights_may_be_added_up_in_any_order(name):
    """The sum so far and the next weight's number are both small: the sum goes on once every record has given its own."""
    update = assemble(family(name).capture(rule=Summing()), BodyTable()).update

    assert update.waits
    assert set(dict(update.logs).values()) <= set(update.across.outputs)
    carried = {value for record in update.records for value in record.before.outputs}
    assert carried <= set(update.across.inputs)
    assert all("/gradient" not in value for value in update.across.inputs)


# --- what cannot be cut -----------------------------------------------------------------------------------


class ByUpdateNorm(_Rule):
    """Clips gradients by their global norm, then the updates by theirs."""

    def update(self, weights, grads, state, globals):
        coefficient = 1.0 / global_norm(grads)
        moves = {name: grads[name] * coefficient for name in grads}
        again = 1.0 / global_norm(moves)
        new = {name: weights[name] - moves[name] * again for name in grads}
        return Updated(weights=new, state={name: {} for name in grads}, globals=dict(globals), logs={})


class Mixing(_Rule):
    """Moves every weight by something of another weight's gradient."""

    def update(self, weights, grads, state, globals):
        names = list(grads)
        joined = torch.cat([grad.flatten() for grad in grads.values()])
        new = {name: weights[name] - joined.mean() for name in names}
        return Updated(weights=new, state={name: {} for name in grads}, globals=dict(globals), logs={})


class Trusting(PerWeightRule):
    """A trust ratio for each weight, as LARS and LAMB have it."""

    def state(self, name, weight):
        return {}

    def scalars(self, step):
        return {"lr": torch.full((), 0.1)}

    def update_weight(self, name, weight, grad, state, scalars, step):
        ratio = torch.linalg.vector_norm(weight) / torch.linalg.vector_norm(grad)
        return weight - scalars["lr"] * ratio * grad, {}


def test_an_update_that_needs_two_passes_over_all_gradients_is_refused():
    """MemoryX sees each gradient once; a second global value of the updates would need them all again."""
    with pytest.raises(
        PlanError, match=r"a second pass over all gradients .*use an optimizer whose global values"
    ):
        update_of(ByUpdateNorm())


def test_an_update_that_joins_whole_gradients_is_refused():
    """They live in different records, of which only a few may be in memory."""
    kind = type(build_empty(family("mnist").make))
    wide = replace(family("mnist"), make=lambda: kind(64, 512))
    with pytest.raises(
        PlanError, match=r"joins whole tensors of several layers .*reduce each weight's gradient"
    ):
        assemble(wide.capture(rule=Mixing()), BodyTable())


def test_a_trust_ratio_of_each_weight_is_no_obstacle():
    """What a weight needs of itself, however global it looks, stays in its record."""
    assert not update_of(Trusting()).waits
