"""Predicted time and memory."""

import msgspec
import pytest
from prediction_cases import Ones, trainer

from openwafer.artifact import HEAP_BYTES, DiskSpeed
from openwafer.cluster import measure_disks
from openwafer.graph import predict_step


def test_a_disk_step_moves_28_bytes_per_parameter(tmp_path):
    """float32 AdamW: w for the forward, w m v for the backward and its update, w m v back; the last layer's w comes once.

    Source: the critical batch N* = 28 F / (6 W) of docs/glossary.md; records are padded to pages.
    """
    plan = trainer(tmp_path, memoryx="disk").plan(Ones())

    step = predict_step(plan, dict.fromkeys(plan.bodies, 0.001), DiskSpeed(1e9, 2e9))

    stored = sum(record.nbytes for record in plan.records)
    weights = sum(record.weight_bytes for record in plan.records)
    assert step.bytes_written == stored
    assert step.bytes_read == stored + weights - plan.records[-1].weight_bytes
    assert step.disk_s == pytest.approx(step.bytes_read / 1e9 + step.bytes_written / 2e9)


def test_the_longer_of_compute_and_disk_sets_the_step(tmp_path):
    """They overlap: a slow disk sets the time, a fast one is hidden, and N* tells where one becomes the other."""
    plan = trainer(tmp_path, memoryx="disk").plan(Ones())
    bodies = dict.fromkeys(plan.bodies, 0.01)

    slow, fast = (
        predict_step(plan, bodies, DiskSpeed(1e3, 1e3)),
        predict_step(plan, bodies, DiskSpeed(1e12, 1e12)),
    )

    assert slow.total_s >= slow.disk_s > slow.compute_s
    assert fast.total_s == pytest.approx(fast.compute_s, rel=1e-6)
    assert slow.critical_batch == pytest.approx(plan.batch * slow.disk_s / slow.compute_s)


@pytest.mark.parametrize("disk_s", [0.1, 10.0])
def test_arithmetic_is_slower_for_as_long_as_the_disk_works(tmp_path, disk_s):
    """A virtual machine's disk works on the cores that compute: for a moment, or for the whole step."""
    plan = trainer(tmp_path, memoryx="disk").plan(Ones())
    bodies = dict.fromkeys(plan.bodies, 0.01)
    moved = predict_step(plan, bodies, DiskSpeed(1.0, 1.0)).disk_s
    alone = predict_step(plan, bodies).compute_s

    beside = predict_step(plan, bodies, DiskSpeed(moved / disk_s, moved / disk_s, slowdown=2.0))

    assert beside.disk_s == pytest.approx(disk_s)
    # In 0.1 s of the disk's work half as much is computed; the rest goes on at full speed.
    assert beside.compute_s == pytest.approx(alone + 0.05 if disk_s == 0.1 else 2 * alone)


def test_disks_are_measured_together_and_leave_nothing_behind(tmp_path):
    """Two folders of one disk share it; what arithmetic loses beside them is at least nothing."""
    folders = [tmp_path / "a", tmp_path / "b"]

    found = measure_disks(folders, 32 * 2**20, threads=1)

    assert found.read_bytes_per_s > 0
    assert found.write_bytes_per_s > 0
    assert found.slowdown >= 1
    assert not [file for folder in folders for file in folder.iterdir()]


def test_updates_take_a_share_of_cores_that_systems_use_up(tmp_path):
    """With a core to spare they run beside the backward and cost nothing; else their time is spread over all cores."""
    plan = trainer(tmp_path).plan(Ones())
    bodies = dict.fromkeys(plan.bodies, 0.01)

    apart, shared = predict_step(plan, bodies), predict_step(plan, bodies, None, 2)

    assert apart.update_s == pytest.approx(0.01 * len(plan.records))
    assert shared.compute_s == pytest.approx(apart.compute_s + apart.update_s / 2)
    assert shared.total_s > apart.total_s


def test_the_promised_peak_counts_what_the_coordinator_allocates(tmp_path):
    """host_bytes is systems, slots and MemoryX; replicas of a stage share the slots that they read."""
    one = trainer(tmp_path, memoryx="disk").plan(Ones())
    two = trainer(tmp_path, memoryx="disk", systems=2).plan(Ones())

    system = one.systems[0].memory
    assert one.host_bytes == system.peak + one.memoryx.ram + HEAP_BYTES
    both = sum(entry.memory.peak for entry in two.systems)
    assert two.host_bytes == both - two.systems[0].memory.weights + two.memoryx.ram + HEAP_BYTES
    assert msgspec.structs.asdict(two.memoryx)["store_disk"] == one.memoryx.store_disk
