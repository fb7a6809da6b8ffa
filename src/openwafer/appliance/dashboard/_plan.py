"""What a job's plan says of its roles: which there are, what each should need, and what passes through it in a step."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import final

import msgspec

from openwafer.appliance.dashboard._tail import read_plain
from openwafer.artifact import Plan, batch_slot_bytes, gradient_order, load_order
from openwafer.base import WaferError

_KEPT = 32
_MOST_BYTES = 256 << 20


class RolePlan(msgspec.Struct, frozen=True):
    """Predictions for one role. in_bytes, out_bytes: of one training step."""

    name: str
    memory_bytes: int
    in_bytes: int
    out_bytes: int
    disk_bytes: int = 0


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A plan in a few numbers; all of them are predictions or choices."""

    model: str
    mode: str
    batch: int
    microbatches: int
    systems: int
    replicas: int
    stages: int
    store: str
    layers: int
    parameters: int
    weight_bytes: int
    record_bytes: int
    """Weights and optimizer state."""
    flops_per_step: int
    host_bytes: int
    roles: tuple[RolePlan, ...]


@final
class Plans:
    """Summaries of the plans that were asked for last, each read once. Thread-safe."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[tuple[int, int], PlanSummary | None]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path) -> PlanSummary | None:
        """The summary of a run's plan.json; None while there is none, or if it is no plan."""
        try:
            stat = path.stat()
        except OSError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                self._known[path] = known = (stamp, _read(path))
            self._known.move_to_end(path)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            return known[1]


def _read(path: Path) -> PlanSummary | None:
    try:
        return summarise(msgspec.json.decode(read_plain(path, _MOST_BYTES), type=Plan))
    except (OSError, msgspec.MsgspecError, WaferError, LookupError, ValueError):
        return None  # a job writes what it likes into its folder


def summarise(plan: Plan) -> PlanSummary:
    """The numbers of a plan."""
    size = plan.systems[0].rows[0]
    weights = [tensor for record in plan.records for tensor in record.weights]
    return PlanSummary(
        model=plan.model,
        mode=str(plan.mode),
        batch=plan.batch,
        microbatches=len(plan.systems[0].rows),
        systems=len(plan.systems),
        replicas=plan.replicas,
        stages=plan.stages,
        store=plan.store,
        layers=len(plan.layers[size]) if size in plan.layers else 0,
        parameters=sum(_count(tensor.shape) for tensor in weights if tensor.trained),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        record_bytes=sum(record.nbytes for record in plan.records),
        flops_per_step=plan.flops_per_step,
        host_bytes=plan.host_bytes,
        roles=_roles(plan),
    )


def _roles(plan: Plan) -> tuple[RolePlan, ...]:
    """Systems, MemoryX shards and input workers, with the names that the cluster gives them.

    What a shard sends counts once for the systems of a stage, and what it receives once for them too: SwarmX broadcasts and
    sums in between.
    """
    trains = any(size in plan.layers for size in plan.systems[0].rows)
    down: dict[tuple[int, int], int] = {}
    up: dict[tuple[int, int], int] = {}
    inputs: dict[int, int] = {}
    roles = []
    for index, system in enumerate(plan.systems):
        shards = range(len(plan.memoryx_records))
        weights = gradients = 0
        for shard in shards:
            loads = sum(plan.records[r].stream_bytes for r in load_order(plan, system, trains, shard))
            sends = (
                sum(plan.records[r].gradient_bytes for _, r in gradient_order(plan, system, shard))
                if trains
                else 0
            )
            down[system.stage, shard], up[system.stage, shard] = loads, sends
            weights, gradients = weights + loads, gradients + sends
        batch = batch_slot_bytes(plan, index) if system.stage in (0, plan.stages - 1) else 0
        inputs[system.replica] = max(inputs.get(system.replica, 0), batch)
        roles.append(RolePlan(f"system{index}", system.memory.peak, weights + batch, gradients))
    # The prediction is for all shards together; each has as much of it as of the records.
    whole = sum(record.nbytes for record in plan.records) or 1
    held = plan.memoryx
    for shard, records in enumerate(plan.memoryx_records):
        part = sum(plan.records[r].nbytes for r in records) / whole
        roles.append(
            RolePlan(
                f"memoryx{shard or ''}",
                round(held.ram * part),
                sum(amount for (_, home), amount in up.items() if home == shard),
                sum(amount for (_, home), amount in down.items() if home == shard),
                round((held.store_disk + held.gradients_disk) * part),
            )
        )
    roles += [RolePlan(f"input{replica}", 0, 0, sent) for replica, sent in sorted(inputs.items())]
    return tuple(roles)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total
