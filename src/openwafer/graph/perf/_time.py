"""Predict the time of a step from measured bodies and a measured disk: a roofline per role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openwafer.artifact import Backward, DiskSpeed, Forward, Mode, Plan, System, call_of, load_order


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Predicted seconds of one training step. Compute and disk overlap; the longer one sets the step."""

    compute_s: float
    """Of the system that computes longest."""
    update_s: float
    """Of MemoryX: the updates of all records, on one thread."""
    disk_s: float
    total_s: float
    bytes_read: int
    bytes_written: int
    critical_batch: float | None
    """Samples a step (N*) from which on arithmetic hides the disk; None without a disk."""


def predict_step(
    plan: Plan,
    body_s: Mapping[str, float],
    disk: DiskSpeed | None = None,
    shared_cores: int | None = None,
) -> StepTime:
    """The step's time if each body takes `body_s` and the disks have these speeds.

    shared_cores: how many there are, if the systems compute on all of them; MemoryX's updates then take their share of
    that time. None: MemoryX has a core of its own.

    Weight streaming: every system computes all the time, and the disk moves each record that RAM does not keep: its
    weights for the forward, the whole record for the backward, and the whole record back (28 bytes per parameter with
    AdamW in float32). While the disks are busy arithmetic takes `disk.slowdown` times as long. What cannot overlap is the
    first read and the last update's write. Pipelined: the bubble adds to compute.
    """
    compute = max(_compute(plan, system, body_s) for system in plan.systems)
    if plan.mode is Mode.PIPELINED:
        compute /= 1 - plan.bubble
    read = written = 0
    if plan.store == "disk":
        for index, record in enumerate(plan.records):
            if index in plan.cached:
                continue
            loads = sum(
                load_order(plan, system, True).count(index) for system in plan.systems if system.replica == 0
            )
            read += loads * record.weight_bytes
            if record.trained:
                read += record.state_bytes
                written += record.nbytes
    calls = [call for entry in plan.update.records for call in (entry.before, entry.apply)]
    update_s = sum(body_s[call.body] for call in calls if call is not None)
    if shared_cores is not None:
        compute += update_s / shared_cores
    disk_s = tail = 0.0
    if disk is not None:
        first = plan.records[0]
        disk_s = read / disk.read_bytes_per_s + written / disk.write_bytes_per_s
        tail = first.weight_bytes / disk.read_bytes_per_s + first.nbytes / disk.write_bytes_per_s
        # For `disk_s` it goes on at 1 / slowdown of its speed, if it lasts that long.
        compute = min(compute * disk.slowdown, compute + disk_s * (1 - 1 / disk.slowdown))
    return StepTime(
        compute_s=compute,
        update_s=update_s,
        disk_s=disk_s,
        total_s=max(compute, disk_s) + min(tail, disk_s),
        bytes_read=read,
        bytes_written=written,
        critical_batch=plan.batch * disk_s / compute if disk_s and compute else None,
    )


def _compute(plan: Plan, system: System, body_s: Mapping[str, float]) -> float:
    total = 0.0
    for action in system.program:
        if isinstance(action, (Forward, Backward)):
            call = call_of(action, plan.layers[system.rows[action.microbatch]])
            total += body_s[call.body] if call is not None else 0.0
    return total
