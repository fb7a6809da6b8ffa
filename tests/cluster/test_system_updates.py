"""SwarmX adds in one order; MemoryX updates records in place, and its threads do not wait for one another in circles."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from system_cases import ADAMW, small

from openwafer.artifact import Plan
from openwafer.cluster._memory import gradients, stored_state, stored_weights
from openwafer.cluster._messages import Step
from openwafer.cluster._swarmx import reduce_in_place
from openwafer.cluster.memoryx._ledger import Ledger
from openwafer.cluster.memoryx._up import Updates
from openwafer.cluster.memoryx._updater import Updater
from openwafer.cluster.store import aligned_buffer
from openwafer.graph import PlanOptions, UpdateRule, plan_job
from openwafer.train.optim import (
    SGD,
    Adafactor,
    AdamW,
    DynamicLossScale,
    Lion,
    WarmupCosine,
    clip_by_global_norm,
)

# --- SwarmX -----------------------------------------------------------------------------------------------


def _parts(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Gradients of very different sizes, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(257, generator=generator) * 10.0 ** float(torch.randint(-6, 7, (), generator=generator))
        for _ in range(count)
    ]


EXPRESSIONS = {
    1: lambda p: p[0],
    2: lambda p: p[0] + p[1],
    3: lambda p: (p[0] + p[1]) + p[2],
    4: lambda p: (p[0] + p[1]) + (p[2] + p[3]),
    5: lambda p: ((p[0] + p[1]) + (p[2] + p[3])) + p[4],
    6: lambda p: ((p[0] + p[1]) + (p[2] + p[3])) + (p[4] + p[5]),
    7: lambda p: ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + p[6]),
    8: lambda p: ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7])),
}


@pytest.mark.parametrize("count", EXPRESSIONS)
def test_gradients_are_added_as_neighbours_into_the_first(count):
    """The order is part of the promise: the same systems give the same bits, in whatever order messages arrive."""
    parts = _parts(count)
    expected = EXPRESSIONS[count]([part.clone() for part in parts])
    first = parts[0]

    found = reduce_in_place(parts)

    assert found is first
    assert torch.equal(found, expected)


def test_the_order_matters():
    """These numbers tell orders apart, so that the test above can fail."""
    parts = _parts(8)

    assert not torch.equal(EXPRESSIONS[8](parts), sum(parts[1:], parts[0]))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 33), seed=st.integers(0, 1000))
def test_the_error_of_the_tree_grows_with_its_depth(count, seed):
    """Pairwise addition: at most ceil(log2 n) roundings on the way of each part, each of 2**-24 of what it holds.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2.
    """
    parts = _parts(count, seed)
    exact = torch.stack(parts).double().sum(0)
    bound = torch.stack(parts).double().abs().sum(0) * max(1, (count - 1).bit_length()) * 2.0**-24 * 1.01

    assert torch.all((reduce_in_place(parts).double() - exact).abs() <= bound)


# --- the update -------------------------------------------------------------------------------------------

RULES = {
    "adamw": ADAMW,
    "scheduled": AdamW(lr=WarmupCosine(peak=1e-2, warmup_steps=2, steps=5), weight_decay=0.1),
    "momentum": SGD(lr=0.1, momentum=0.9),
    "lion": Lion(lr=1e-3),
    "adafactor": Adafactor(lr=1e-2),
    "clipped": clip_by_global_norm(AdamW(lr=1e-2), 0.1),
    "scaled": DynamicLossScale(clip_by_global_norm(AdamW(lr=1e-2), 0.1), initial=8.0, growth_interval=2),
}


def _plan(rule: UpdateRule) -> Plan:
    step = small().capture(rule)
    return plan_job("small", lambda samples, train: step, PlanOptions(batch=4, evaluate=False))


class Records:
    """MemoryX's records and gradient slots, without MemoryX."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.buffers = [aligned_buffer(record.nbytes) for record in plan.records]
        self.slots = [aligned_buffer(max(record.gradient_bytes, 64)) for record in plan.records]
        for index, record in enumerate(plan.records):
            for name, tensor in self.tensors(index).items():
                if name in small().values:
                    tensor.copy_(small().values[name])
                elif not name.endswith("/gradient"):
                    tensor.fill_(plan.initial_state.get(name, 0.0))
            assert record.trained or not record.state

    def tensors(self, index: int) -> dict[str, torch.Tensor]:
        record = self.plan.records[index]
        own = {f"{name}/gradient": value for name, value in gradients(record, self.slots[index]).items()}
        return {
            **stored_weights(record, self.buffers[index]),
            **stored_state(record, self.buffers[index]),
            **own,
        }

    def fill(self, grads: dict[str, torch.Tensor]) -> None:
        for index, record in enumerate(self.plan.records):
            for name, target in gradients(record, self.slots[index]).items():
                target.copy_(grads[name])


@pytest.mark.parametrize("name", RULES)
def test_updates_in_place_are_the_functional_update(name):
    """Five steps, record by record over the records' own bytes, against the rule applied to all weights at once."""
    rule = RULES[name]
    plan = _plan(rule)
    records = Records(plan)
    updater = Updater(plan, {})
    weights = {n: v.detach().clone() for n, v in small().module.named_parameters()}
    state = {n: rule.state(n, v) for n, v in weights.items()}
    shared = rule.globals()
    generator = torch.Generator().manual_seed(4)

    for number in range(5):
        grads = {n: torch.randn(v.shape, generator=generator) * 10 for n, v in weights.items()}
        if name == "scaled" and number == 3:
            grads["head.weight" if "head.weight" in grads else "embedding.weight"][0, 0] = torch.inf
        expected = rule.update(weights, grads, state, shared)
        weights, state, shared = expected.weights, expected.state, expected.globals

        records.fill(grads)
        with torch.inference_mode():
            updater.begin()
            for index in reversed(range(len(plan.records))):
                updater.before(index, records.tensors(index))
                if not plan.update.waits:
                    updater.apply(index, records.tensors(index))
            updater.across()
            if plan.update.waits:
                for index in range(len(plan.records)):
                    updater.apply(index, records.tensors(index))
            logs = updater.finish()

        found = {
            key: value for index in range(len(plan.records)) for key, value in records.tensors(index).items()
        }
        for weight, value in weights.items():
            assert torch.equal(found[weight], value), (number, weight)
            for key, kept in state[weight].items():
                assert torch.equal(found[f"{weight}/{key}"], kept), (number, weight, key)
        assert updater.global_values == {key: float(value) for key, value in shared.items()}
        assert logs == {key: float(value.float()) for key, value in expected.logs.items()}


def test_globals_come_back_from_a_checkpoint():
    """A run that goes on begins with the step count that it had."""
    plan = _plan(ADAMW)

    assert Updater(plan, {}).global_values == {"step": 0.0}
    assert Updater(plan, {"step": 7.0}).global_values == {"step": 7.0}


# --- threads ----------------------------------------------------------------------------------------------


class _Quiet:
    """Endpoints of a job that nobody aborts."""

    def check(self) -> None:
        pass


def _updates(stages: int) -> Updates:
    """The updates of a plan with one frozen record and stages that read nothing."""
    system = SimpleNamespace(rows=(1,), program=())
    plan = SimpleNamespace(
        stages=stages,
        buffers=(),
        records=(),
        spills_gradients=False,
        update=SimpleNamespace(waits=False, across=None, outputs=()),
        memoryx_records=((0,),),
        systems=[SimpleNamespace(stage=stage, **vars(system)) for stage in range(stages)],
        layers={1: ()},
    )
    shared = SimpleNamespace(
        plan=plan,
        shard=0,
        start_step=0,
        ledger=Ledger([0], _Quiet(), 5.0),
        updater=SimpleNamespace(
            begin=lambda step: None, across=lambda: None, finish=lambda: {}, global_values={}
        ),
        store=SimpleNamespace(
            indices=(0,), keep=lambda *_: None, stats=SimpleNamespace(bytes_read=0, bytes_written=0)
        ),
        reports=SimpleNamespace(send=lambda *_: None),
        trained=[False],
        take_spans=lambda step: (),
    )
    return Updates(shared)


def _step(number: int) -> Step:
    return Step(number=number, batch=number, train=True)


def test_a_stage_that_is_ahead_does_not_keep_another_from_ending_the_step():
    """It waits for the step before to be complete, but not with the lock that completing it takes."""
    updates = _updates(stages=2)
    updates.begin(_step(0))
    updates.end(_step(0), 0)
    ahead = threading.Thread(target=updates.begin, args=(_step(1),), daemon=True)
    ahead.start()
    ahead.join(0.2)
    assert ahead.is_alive()

    other = threading.Thread(target=updates.end, args=(_step(0), 1), daemon=True)
    other.start()
    other.join(2.0)
    ahead.join(2.0)

    assert not other.is_alive()
    assert not ahead.is_alive()
    assert updates.shared.ledger.completed == 1
    assert updates._begun == 2


def test_a_stage_without_gradients_counts_for_its_own_step_only():
    """All its weights may be frozen: it ends each step at once, and must not end the next one before it began."""
    updates = _updates(stages=2)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run_ahead() -> None:
        for number in range(3):
            updates.end(_step(number), 0)
            done.put(number)

    ahead = threading.Thread(target=run_ahead, daemon=True)
    ahead.start()
    ahead.join(0.3)

    assert updates.shared.ledger.completed == 0
    assert done.qsize() == 1
    for number in range(3):
        updates.begin(_step(number))
        updates.end(_step(number), 1)
    ahead.join(2.0)
    assert not ahead.is_alive()
    assert updates.shared.ledger.completed == 3
