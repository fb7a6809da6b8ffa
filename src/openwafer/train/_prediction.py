"""Measure this machine for a moment: predict a step's time, and choose what a disk store keeps in RAM."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from openwafer.artifact import DiskSpeed, Plan
from openwafer.base import StorageError, format_bytes
from openwafer.cluster import measure_bodies, measure_disks
from openwafer.graph import StepTime, hide_disk, predict_step
from openwafer.train._config import LocalCluster, cores
from openwafer.train._hosts import HostsCluster
from openwafer.train._saved import SavedPlans, Times

SHARE_OF_FREE_RAM = 0.7
"""Of what is free beside the plan's own need; the rest is for the user's data and for other programs."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A plan, the time that its step should take, and both in words."""

    plan: Plan
    step: StepTime
    text: str


def predict(
    plan: Plan,
    cluster: LocalCluster,
    choices: Mapping[str, str],
    store_folders: Sequence[Path],
    saved: SavedPlans | None = None,
) -> Prediction | str:
    """Run each body and write a probe to every disk; a text says why that was not possible.

    saved: where times of the plan's bodies may be known from an earlier run, and are kept for later ones.
    With `memoryx_memory="auto"` the plan that comes back keeps in RAM what hides the disk, if there is room.
    """
    stored = sum(record.nbytes for record in plan.records)
    threads = cluster.threads_per_system
    began = time.time()

    def measure() -> dict[str, float]:
        return measure_bodies(plan, cluster.matmul, choices, threads)

    try:
        question = (cluster.matmul, dict(choices), threads)
        times = saved.times(question, measure) if saved is not None else Times(began, measure())
        disk = (
            _measure_store(cluster, len(plan.systems), store_folders, stored)
            if cluster.store == "disk"
            else None
        )
    except (
        StorageError,
        RuntimeError,
    ) as error:  # torch's error for memory that is not there is a RuntimeError
        return f"No prediction of a step's time: {str(error).splitlines()[0]}"
    bodies = times.seconds
    used = 0 if isinstance(cluster, HostsCluster) else cluster.threads_per_system * len(plan.systems)
    shared = cores() if used >= cores() else None
    if disk is not None and cluster.memoryx_memory == "auto":
        free = int(psutil.virtual_memory().available * SHARE_OF_FREE_RAM) - plan.host_bytes
        plan = hide_disk(plan, bodies, disk, max(0, free), shared)
    step = predict_step(plan, bodies, disk, shared)
    text = _in_words(plan, step)
    if times.at < began:
        text += f"; bodies measured at {time.strftime('%H:%M', time.localtime(times.at))}"
    return Prediction(plan, step, text)


def _measure_store(cluster: LocalCluster, systems: int, folders: Sequence[Path], stored: int) -> DiskSpeed:
    """The disks of all MemoryX shards; other hosts' are taken to be like this one's, and to disturb nobody here."""
    if not isinstance(cluster, HostsCluster):
        threads = min(cores(), cluster.threads_per_system * systems)
        return measure_disks(folders, stored // len(folders), threads)
    one = measure_disks(folders[:1], stored // len(folders), 1)
    return DiskSpeed(one.read_bytes_per_s * len(folders), one.write_bytes_per_s * len(folders))


def _in_words(plan: Plan, step: StepTime) -> str:
    text = f"Predicted Step={step.total_s:.3f} s, Compute={step.compute_s:.3f} s"
    if plan.store == "disk":
        text += (
            f", Disk={step.disk_s:.3f} s ({format_bytes(step.bytes_read)} read, "
            f"{format_bytes(step.bytes_written)} written)"
        )
    if step.critical_batch is not None:
        text += f"; a batch of {math.ceil(step.critical_batch)} hides the disk"
    if plan.cached:
        kept = sum(plan.records[index].nbytes for index in plan.cached)
        text += f"; {len(plan.cached)} of {len(plan.records)} records stay in RAM ({format_bytes(kept)})"
    return text
