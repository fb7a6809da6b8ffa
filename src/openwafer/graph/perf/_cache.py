"""What a disk store keeps in RAM: as much as a budget allows, or as much as hides the disk."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from openwafer.artifact import DiskSpeed, Plan
from openwafer.base import PlanError, format_bytes
from openwafer.graph.perf._roles import memoryx_memory
from openwafer.graph.perf._time import predict_step


def with_cache(plan: Plan, budget: int | None) -> Plan:
    """The plan with as many records of a disk store kept in RAM as `budget` bytes have room for, beside the buffers.

    Every record saves the same traffic per byte, so they are taken from the end of the model until the room is used:
    the update of the last layers is then the first to be over. Gradients that wait go to the disk where the budget has no
    room for them.

    Raises PlanError if the budget is too small for the buffers alone.
    """
    if budget is None or plan.store != "disk":
        return plan
    plan = msgspec.structs.replace(plan, spills_gradients=memoryx_memory(plan).ram > budget)
    room = budget - memoryx_memory(plan).ram
    if room < 0:
        raise PlanError(
            f"MemoryX needs {format_bytes(memoryx_memory(plan).ram)} for buffers, but memoryx_memory is "
            f"{format_bytes(budget)}; raise it, or leave it out to keep nothing else in RAM"
        )
    kept = []
    for index in reversed(range(len(plan.records))):
        if plan.records[index].nbytes <= room:
            kept.append(index)
            room -= plan.records[index].nbytes
    return _keeping(plan, kept)


def hide_disk(
    plan: Plan,
    body_s: Mapping[str, float],
    disk: DiskSpeed,
    room: int,
    shared_cores: int | None = None,
) -> Plan:
    """The plan with as few records in RAM as make arithmetic longer than the disk, and at most `room` bytes of them.

    body_s, disk, shared_cores: as `predict_step` takes them. A batch of N* samples or more needs none.
    """
    kept: list[int] = []
    for index in reversed(range(len(plan.records))):
        step = predict_step(_keeping(plan, kept), body_s, disk, shared_cores)
        if step.disk_s <= step.compute_s:
            break
        if plan.records[index].nbytes <= room:
            kept.append(index)
            room -= plan.records[index].nbytes
    return _keeping(plan, kept)


def _keeping(plan: Plan, records: list[int]) -> Plan:
    plan = msgspec.structs.replace(plan, cached=tuple(sorted(records)))
    return msgspec.structs.replace(plan, memoryx=memoryx_memory(plan))
