"""The room that systems with memory of their own need there for what travels: read by whoever predicts or executes."""

from __future__ import annotations

from collections import Counter

from openwafer.artifact._plan import Mode, Plan
from openwafer.artifact._traffic import (
    BATCH_SLOTS,
    batch_slot_bytes,
    gradient_ring_bytes,
    load_order,
    systems_of_stage,
    value_slots,
    weight_ring_bytes,
)

VALUE_BUFFERS = 2
"""Messages between stages, each way, that a device holds at once: one in use, one on its way."""


def weight_buffers(plan: Plan, index: int, shard: int) -> tuple[int, ...]:
    """Bytes of each buffer for records of a MemoryX shard: while one layer is computed with, the next is copied to another.

    Weight streaming: as many as the ring has slots, each for the largest record. Pipelined: one for every record of the
    stage, as often as it comes, since all of them stay for a step.
    """
    system = plan.systems[index]
    orders = [load_order(plan, system, train, shard) for train in (True, False) if train or system.evaluation]
    most: Counter[int] = Counter()
    for order in orders:
        most |= Counter(order)
    sizes = [plan.records[record].stream_bytes for record in sorted(most.elements())]
    if plan.mode is Mode.PIPELINED:
        return tuple(sizes)
    return (max(sizes),) * plan.slots if sizes else ()


def boundary_bytes(plan: Plan, index: int) -> int:
    """Bytes of a system's buffers for values that go to and come from other stages."""
    return sum(VALUE_BUFFERS * nbytes for pair, _, nbytes in _value_rings(plan, index) if index in pair)


def host_bytes_for(plan: Plan, index: int) -> int:
    """Bytes of the host's memory in which a system's messages lie: pinned, since the device copies from and to there.

    A ring that several systems read counts for the first of them.
    """
    system = plan.systems[index]
    total = gradient_ring_bytes(plan, index)
    if index == systems_of_stage(plan, system.stage)[0]:
        total += weight_ring_bytes(plan, system.stage)
    if system.stage == 0:
        total += BATCH_SLOTS * batch_slot_bytes(plan, index)
    return total + sum(
        slots * nbytes for pair, slots, nbytes in _value_rings(plan, index) if pair[0] == index
    )


def _value_rings(plan: Plan, index: int) -> list[tuple[tuple[int, int], int, int]]:
    """((sender, receiver), slots, bytes of each) of the rings between the stages of a system's replica."""
    replica = plan.systems[index].replica
    members = [i for i, system in enumerate(plan.systems) if system.replica == replica]
    return [(pair, slots, nbytes) for pair, (slots, nbytes) in value_slots(plan, members).items()]
