"""What a plan says of systems with memory of their own; planning needs no GPU."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from openwafer.artifact import (
    HEAP_BYTES,
    Plan,
    boundary_bytes,
    describe_plan,
    gradient_slots,
    plan_from_json,
    plan_to_json,
    weight_buffers,
    weight_slots,
)
from openwafer.base import MIB, PlanError
from openwafer.train import LocalCluster, Trainer
from openwafer.train.optim import AdamW

BATCH, WIDTH, LAYERS = 8, 64, 4


class Layered(nn.Module):
    """Equal layers between two of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH)
        self.inner = nn.ModuleList(nn.Linear(2 * WIDTH, 2 * WIDTH) for _ in range(LAYERS))
        self.last = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        x = self.first(x)
        for layer in self.inner:
            x = torch.relu(layer(x))
        return self.last(x)


def plan_of(device: str, precision: str = "fp32", **cluster) -> Plan:
    trainer = Trainer(
        Layered,
        optimizer=AdamW(lr=1e-3),
        loss=nn.functional.mse_loss,
        precision=precision,
        cluster=LocalCluster(device=device, **{"execution": "weight_streaming", **cluster}),
    )
    return trainer.plan([(torch.zeros(BATCH, WIDTH), torch.zeros(BATCH, WIDTH))])


@pytest.mark.parametrize("execution", ["weight_streaming", "pipelined"])
def test_a_plan_for_gpus_differs_in_memory_alone(execution):
    """Bodies, programs and records are the same: a checkpoint, and whoever reads a plan, need not know the device."""
    own = plan_of("cuda", execution=execution, systems=2)
    host = plan_of("cpu", execution=execution, systems=2)

    def without_memory(plan: Plan) -> Plan:
        systems = tuple(
            msgspec.structs.replace(system, memory=host.systems[0].memory) for system in plan.systems
        )
        return msgspec.structs.replace(plan, systems=systems, own_memory=False)

    assert own.own_memory
    assert not host.own_memory
    assert without_memory(own) == without_memory(host)
    assert plan_from_json(plan_to_json(own)) == own


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_streamed_weights_need_as_many_buffers_as_the_ring_has_slots(precision):
    """One in use, one on its way; in RAM and float32 the ring itself has none, because systems read the store."""
    plan = plan_of("cuda", precision=precision)
    memory = plan.systems[0].memory

    assert weight_buffers(plan, 0, 0) == (max(record.stream_bytes for record in plan.records),) * 2
    assert memory.weights == sum(weight_buffers(plan, 0, 0))
    assert weight_slots(plan, 0, 0)[0] == (0 if precision == "fp32" else 2)


def test_a_pipelined_system_holds_every_weight_of_its_stage():
    """They stay for the step; boundary values have two buffers each way."""
    plan = plan_of("cuda", execution="pipelined", systems=2, microbatch=2)
    held = sorted(size for index in range(2) for size in weight_buffers(plan, index, 0))

    assert held == sorted(record.stream_bytes for record in plan.records)
    value_bytes = 2 * 2 * WIDTH * 4  # two samples, float32
    assert boundary_bytes(plan, 0) >= 2 * 2 * value_bytes
    assert boundary_bytes(plan, 0) == boundary_bytes(plan, 1)


def test_the_host_holds_the_slots_and_the_store():
    """Activations are on the device: the host's share does not grow with the batch but for the batches themselves."""
    plan = plan_of("cuda")

    slots, slot_bytes = gradient_slots(plan, 0, 0)
    stored = sum(record.nbytes for record in plan.records)
    batches = 3 * 2 * BATCH * WIDTH * 4
    assert plan.host_bytes == stored + slots * slot_bytes + batches + HEAP_BYTES
    assert plan.systems[0].memory.gradients == slots * slot_bytes


def test_a_budget_has_room_for_what_libraries_take():
    """The allocator's cap is the budget: a plan that filled it with tensors would not run."""
    memory = plan_of("cuda").systems[0].memory

    assert memory.reserve >= 192 * MIB
    assert memory.peak >= memory.reserve + memory.weights + memory.gradients
    assert "libraries 1" in describe_plan(plan_of("cuda"))
    assert "libraries" not in describe_plan(plan_of("cpu"))
    with pytest.raises(PlanError, match=r"does not fit 64 MiB per system.*libraries 192 MiB\); give each"):
        plan_of("cuda", system_memory="64MiB")
    assert plan_of("cuda", system_memory=memory.peak).systems[0].memory.peak == memory.peak
