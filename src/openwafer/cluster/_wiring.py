"""The links and rings of a job: declared alike on every host, and between threads or processes of one."""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.artifact import (
    BATCH_SLOTS,
    Plan,
    batch_slot_bytes,
    gradient_slots,
    systems_of_stage,
    value_slots,
    weight_slots,
)
from openwafer.cluster._job import Job, input_role, memoryx, system_role
from openwafer.wire import Transport

COORDINATOR = "coordinator"


def role_names(plan: Plan) -> list[str]:
    """The roles of a job, without its coordinator."""
    return [
        memoryx(),
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
    beside = [
        system_role(index)
        for index in range(len(plan.systems))
        if placement[system_role(index)] == placement[memoryx()]
    ]
    if plan.store == "ram":
        transport.segment("store", sum(record.nbytes for record in plan.records), [memoryx(), *beside])
    for stage in range(plan.stages):
        readers = [system_role(index) for index in systems_of_stage(plan, stage)]
        slots, slot_bytes = weight_slots(plan, stage, in_place=set(readers) <= set(beside))
        transport.ring(
            f"weights{stage}", slots=slots, slot_bytes=slot_bytes, writer=memoryx(), readers=readers
        )
    for index, system in enumerate(plan.systems):
        slots, slot_bytes = gradient_slots(plan, index)
        transport.ring(
            "gradients", slots=slots, slot_bytes=slot_bytes, writer=system_role(index), readers=[memoryx()]
        )
        if plan.buffers and system.replica == 0:
            transport.link("buffers", system_role(index), memoryx())
    for replica in range(plan.replicas):
        _declare_replica(transport, job, replica)


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
