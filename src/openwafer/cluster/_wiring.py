"""The links and rings of a job: declared alike on every host, and between threads or processes of one."""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.artifact import (
    BATCH_SLOTS,
    OUTPUT_SLOTS,
    Plan,
    batch_slot_bytes,
    exchange_slots,
    gradient_slots,
    system_outputs,
    systems_of_stage,
    update_outputs,
    value_slots,
    weight_slots,
)
from openwafer.cluster._job import Job, input_role, memoryx, store_segment, system_role
from openwafer.wire import Transport

COORDINATOR = "coordinator"


def role_names(plan: Plan) -> list[str]:
    """The roles of a job, without its coordinator."""
    return [
        *(memoryx(shard) for shard in range(len(plan.memoryx_records))),
        *(system_role(index) for index in range(len(plan.systems))),
        *(input_role(replica) for replica in range(plan.replicas)),
    ]


def declare(transport: Transport, job: Job, placement: Mapping[str, str]) -> None:
    """Declare all that the roles of a job say to each other. placement: the host of every role.

    Every host of a job calls it with the same arguments, so that all count links and rings alike.
    """
    plan = job.plan
    for name in role_names(plan):
        transport.link("commands", COORDINATOR, name)
        transport.link("reports", name, COORDINATOR)
    for shard in range(len(plan.memoryx_records)):
        _declare_memoryx(transport, plan, shard, placement)
    for replica in range(plan.replicas):
        _declare_replica(transport, job, replica)
    _declare_outputs(transport, plan)


def _declare_outputs(transport: Transport, plan: Plan) -> None:
    """What systems and MemoryX hand out in each step, to whoever asked for the job."""
    sizes = {system_role(index): system_outputs(plan, index)[1] for index in range(len(plan.systems))}
    sizes[memoryx()] = update_outputs(plan)[1]
    for role, slot_bytes in sizes.items():
        if slot_bytes:
            transport.ring(
                "outputs", slots=OUTPUT_SLOTS, slot_bytes=slot_bytes, writer=role, readers=[COORDINATOR]
            )


def _declare_memoryx(transport: Transport, plan: Plan, shard: int, placement: Mapping[str, str]) -> None:
    """What one MemoryX shard says to every system, and to the other shards."""
    role = memoryx(shard)
    systems = [system_role(index) for index in range(len(plan.systems))]
    beside = [name for name in systems if placement[name] == placement[role]]
    if plan.store == "ram":
        nbytes = sum(plan.records[record].nbytes for record in plan.memoryx_records[shard])
        transport.segment(store_segment(shard), nbytes, [role, *beside])
    for stage in range(plan.stages):
        readers = [systems[index] for index in systems_of_stage(plan, stage)]
        slots, slot_bytes = weight_slots(plan, stage, shard, in_place=set(readers) <= set(beside))
        transport.ring(f"weights{stage}", slots=slots, slot_bytes=slot_bytes, writer=role, readers=readers)
    for index, system in enumerate(plan.systems):
        slots, slot_bytes = gradient_slots(plan, index, shard)
        transport.ring(
            f"gradients{shard}", slots=slots, slot_bytes=slot_bytes, writer=systems[index], readers=[role]
        )
        if plan.buffers and system.replica == 0:
            transport.link("buffers", systems[index], role)
    for other in range(len(plan.memoryx_records)):
        if other != shard:
            transport.link("across", role, memoryx(other))
    if shard:
        slots, slot_bytes = exchange_slots(plan, shard)
        for name, source, target in (("restored", memoryx(), role), ("saved", role, memoryx())):
            transport.ring(
                f"{name}{shard}", slots=slots, slot_bytes=slot_bytes, writer=source, readers=[target]
            )


def _declare_replica(transport: Transport, job: Job, replica: int) -> None:
    plan = job.plan
    members = [index for index, system in enumerate(plan.systems) if system.replica == replica]
    transport.ring(
        "batches",
        slots=BATCH_SLOTS,
        slot_bytes=max(batch_slot_bytes(plan, members[0]), 1),
        writer=input_role(replica),
        readers=[system_role(index) for index in members],
    )
    for (source, target), (slots, slot_bytes) in value_slots(plan, members).items():
        transport.ring(
            f"values{plan.systems[source].stage}to{plan.systems[target].stage}",
            slots=slots,
            slot_bytes=slot_bytes,
            writer=system_role(source),
            readers=[system_role(target)],
        )
