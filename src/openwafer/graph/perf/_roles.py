"""Predict the memory of every role of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from openwafer.artifact import (
    Body,
    Call,
    MemoryXMemory,
    Mode,
    Plan,
    System,
    SystemMemory,
    TensorType,
    gradient_order,
    gradient_slots,
    load_order,
    record_buffers,
    streams_in_place,
    weight_slots,
)
from openwafer.base import PlanError, format_bytes
from openwafer.graph.perf._memory import Sizes, system_memory

BATCHES_HELD = 3
"""Batches in an input worker's ring: one in use, two ready."""


def with_memory(plan: Plan, bodies: Mapping[str, Body]) -> Plan:
    """The plan with the predicted memory of its systems and of MemoryX filled in."""
    systems = tuple(
        msgspec.structs.replace(system, memory=_system(plan, index, bodies))
        for index, system in enumerate(plan.systems)
    )
    return msgspec.structs.replace(plan, systems=systems, memoryx=_memoryx(plan))


def with_cache(plan: Plan, memoryx_memory: int | None) -> Plan:
    """The plan with as many records of a disk store kept in RAM as the budget has room for, beside the buffers.

    Every record saves the same traffic per byte, so they are taken from the end of the model until the room is used:
    the update of the last layers is then the first to be over.

    Raises PlanError if the budget is too small for the buffers alone.
    """
    if memoryx_memory is None or plan.store != "disk":
        return plan
    room = memoryx_memory - _memoryx(plan).ram
    if room < 0:
        raise PlanError(
            f"MemoryX needs {format_bytes(_memoryx(plan).ram)} for buffers and waiting gradients, but memoryx_memory is "
            f"{format_bytes(memoryx_memory)}; raise it, or leave it out to keep nothing in RAM"
        )
    kept = []
    for index in reversed(range(len(plan.records))):
        if plan.records[index].nbytes <= room:
            kept.append(index)
            room -= plan.records[index].nbytes
    return msgspec.structs.replace(plan, cached=tuple(sorted(kept)))


def _system(plan: Plan, index: int, bodies: Mapping[str, Body]) -> SystemMemory:
    system = plan.systems[index]
    outside = frozenset(
        {weight.name for record in plan.records for weight in record.weights}
        | {name for name, _, _ in plan.inputs}
        | {entry.name for entry in plan.globals}
        | {"sample_fraction", "rng"}
        | {name for call in plan.constants.values() if call for name in call.outputs}
    )
    slots, slot_bytes = weight_slots(plan, system.stage)
    gradients, gradient_bytes = gradient_slots(plan, index)
    constants = sum(_call_bytes(call, bodies) for call in plan.constants.values() if call)
    sample = sum(TensorType(dtype, shape).nbytes for _, dtype, shape in plan.inputs)
    return system_memory(
        system.program,
        system.rows,
        plan.layers,
        bodies,
        outside,
        Sizes(
            weights=slots * slot_bytes + _resident(plan, system),
            gradients=gradients * gradient_bytes,
            inputs=sample * sum(system.rows) * BATCHES_HELD + constants,
        ),
    )


def _resident(plan: Plan, system: System) -> int:
    """Weights that a pipelined system holds in MemoryX's own memory: on a device of its own it would need the room."""
    if plan.mode is not Mode.PIPELINED:
        return 0
    loaded = set(load_order(plan, system, True))
    return sum(plan.records[index].stream_bytes for index in loaded if streams_in_place(plan, index))


def _call_bytes(call: Call, bodies: Mapping[str, Body]) -> int:
    body = bodies[call.body]
    return sum(body.type_of(index).nbytes for index in body.outputs)


def _memoryx(plan: Plan) -> MemoryXMemory:
    stored = sum(record.nbytes for record in plan.records)
    cached = sum(plan.records[index].nbytes for index in plan.cached)
    disk = plan.store == "disk"
    # Gradients that wait: for all others (clipping), or for the other uses of a tied weight.
    first = [system for system in plan.systems if system.replica == 0]
    parts = Counter(record for system in first for _, record in gradient_order(plan, system))
    kept = sum(
        plan.records[record].gradient_bytes
        for record, count in parts.items()
        if plan.update.waits or count > 1
    )
    return MemoryXMemory(
        store_ram=cached if disk else stored,
        store_disk=stored if disk else 0,
        gradients=kept,
        buffers=record_buffers(plan) * max(record.nbytes for record in plan.records),
    )
