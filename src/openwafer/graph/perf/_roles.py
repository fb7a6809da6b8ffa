"""Predict the memory of every role of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from openwafer.artifact import (
    BATCH_SLOTS,
    OUTPUT_SLOTS,
    Body,
    Call,
    MemoryXMemory,
    Mode,
    Plan,
    System,
    SystemMemory,
    batch_slot_bytes,
    boundary_bytes,
    exchange_slots,
    gradient_order,
    gradient_ring_bytes,
    host_bytes_for,
    load_order,
    record_buffers,
    streams_in_place,
    system_outputs,
    update_outputs,
    weight_buffers,
    weight_ring_bytes,
)
from openwafer.base import MIB
from openwafer.graph.perf._memory import Sizes, system_memory

RESERVE_BYTES, RESERVE_SHARE = 192 * MIB, 1 / 16
"""What a device's libraries keep (cuBLAS alone 32 MiB a stream on Hopper GPUs), and what kernels' temporaries and blocks that
the caching allocator cannot join take of the rest. Assumed."""


def with_memory(plan: Plan, bodies: Mapping[str, Body]) -> Plan:
    """The plan with the predicted memory of its systems and of MemoryX filled in."""
    systems = tuple(
        msgspec.structs.replace(system, memory=_system(plan, index, bodies))
        for index, system in enumerate(plan.systems)
    )
    return msgspec.structs.replace(plan, systems=systems, memoryx=memoryx_memory(plan))


def _system(plan: Plan, index: int, bodies: Mapping[str, Body]) -> SystemMemory:
    system = plan.systems[index]
    outside = frozenset(
        {weight.name for record in plan.records for weight in record.weights}
        | {name for name, _, _ in plan.inputs}
        | {entry.name for entry in plan.globals}
        | {"sample_fraction", "rng"}
        | {name for call in plan.constants.values() if call for name in call.outputs}
    )
    memory = system_memory(
        system.program,
        system.rows,
        plan.layers,
        bodies,
        outside,
        _fixed(plan, index, sum(_call_bytes(call, bodies) for call in plan.constants.values() if call)),
    )
    if not plan.own_memory:
        return memory
    reserve = RESERVE_BYTES + int(RESERVE_SHARE * memory.peak)
    return msgspec.structs.replace(
        memory, peak=memory.peak + reserve, reserve=reserve, host=host_bytes_for(plan, index)
    )


def _fixed(plan: Plan, index: int, constants: int) -> Sizes:
    """What a system holds through the whole step: where it computes in the host's memory, the slots themselves."""
    system = plan.systems[index]
    shards = range(len(plan.memoryx_records))
    handed_out = OUTPUT_SLOTS * system_outputs(plan, index)[1]
    if plan.own_memory:
        return Sizes(
            weights=sum(sum(weight_buffers(plan, index, shard)) for shard in shards),
            gradients=gradient_ring_bytes(plan, index),
            inputs=batch_slot_bytes(plan, index) + boundary_bytes(plan, index) + constants + handed_out,
        )
    return Sizes(
        weights=weight_ring_bytes(plan, system.stage) + _resident(plan, system),
        gradients=gradient_ring_bytes(plan, index),
        inputs=BATCH_SLOTS * batch_slot_bytes(plan, index) + constants + handed_out,
    )


def _resident(plan: Plan, system: System) -> int:
    """Weights that a pipelined system computes with where MemoryX holds them."""
    if plan.mode is not Mode.PIPELINED:
        return 0
    loaded = set(load_order(plan, system, True))
    return sum(plan.records[index].stream_bytes for index in loaded if streams_in_place(plan, index))


def _call_bytes(call: Call, bodies: Mapping[str, Body]) -> int:
    body = bodies[call.body]
    return sum(body.type_of(index).nbytes for index in body.outputs)


def memoryx_memory(plan: Plan) -> MemoryXMemory:
    """What MemoryX holds: the store, gradients that wait, buffers of records on their way."""
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
        gradients=0 if plan.spills_gradients else kept,
        gradients_disk=kept if plan.spills_gradients else 0,
        buffers=sum(_shard_buffers(plan, shard) for shard in range(len(plan.memoryx_records)))
        + OUTPUT_SLOTS * update_outputs(plan)[1],
    )


def _shard_buffers(plan: Plan, shard: int) -> int:
    """Records on their way from and to the disk, and between this shard and the first, which has the checkpoints."""
    buffers, buffer_bytes = record_buffers(plan, shard)
    slots, slot_bytes = exchange_slots(plan, shard)
    return buffers * buffer_bytes + (2 * slots * slot_bytes if shard else 0)
