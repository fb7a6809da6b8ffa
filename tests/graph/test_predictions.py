"""Predicted time and the RAM cache of a disk store."""

import msgspec
import pytest
import torch
from torch import nn

import openwafer as ow
from openwafer.base import PlanError
from openwafer.graph import predict_step
from openwafer.train import Trainer


class Ones(ow.BatchSource):
    batch_size = 8
    samples = None
    steps_per_epoch = None

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        return torch.randn(8, 32, generator=generator), torch.randint(4, (8,), generator=generator)


def trainer(folder, **cluster):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(5)]
    return Trainer(
        nn.Sequential(*layers, nn.Linear(32, 4)),
        loss=nn.functional.cross_entropy,
        optimizer=ow.AdamW(lr=1e-2),
        cluster=ow.LocalCluster(threads=1, matmul="torch", execution="weight_streaming", **cluster),
        folder=folder,
    )


def test_a_disk_step_moves_28_bytes_per_parameter(tmp_path):
    """float32 AdamW: w for the forward, w m v for the backward and its update, w m v back; the last layer's w comes once.

    Source: the critical batch N* = 28 F / (6 W) of docs/glossary.md; records are padded to pages.
    """
    plan = trainer(tmp_path, memoryx="disk").plan(Ones())

    step = predict_step(plan, dict.fromkeys(plan.bodies, 0.001), (1e9, 2e9))

    stored = sum(record.nbytes for record in plan.records)
    weights = sum(record.weight_bytes for record in plan.records)
    assert step.bytes_written == stored
    assert step.bytes_read == stored + weights - plan.records[-1].weight_bytes
    assert step.disk_s == pytest.approx(step.bytes_read / 1e9 + step.bytes_written / 2e9)


def test_the_longer_of_compute_and_disk_sets_the_step(tmp_path):
    """They overlap: a slow disk sets the time, a fast one is hidden, and N* tells where one becomes the other."""
    plan = trainer(tmp_path, memoryx="disk").plan(Ones())
    bodies = dict.fromkeys(plan.bodies, 0.01)

    slow, fast = predict_step(plan, bodies, (1e3, 1e3)), predict_step(plan, bodies, (1e12, 1e12))

    assert slow.total_s >= slow.disk_s > slow.compute_s
    assert fast.total_s == pytest.approx(fast.compute_s, rel=1e-6)
    assert slow.critical_batch == pytest.approx(plan.batch * slow.disk_s / slow.compute_s)


def test_ram_that_is_given_keeps_records_from_the_end(tmp_path):
    """What the buffers leave of the budget holds whole records, and a step moves fewer bytes for them."""
    bare = trainer(tmp_path, memoryx="disk").plan(Ones())
    room = bare.memoryx.ram + 2 * bare.records[1].nbytes

    plan = trainer(tmp_path, memoryx="disk", memoryx_memory=room).plan(Ones())

    assert plan.cached
    assert max(plan.cached) == len(plan.records) - 1
    assert plan.memoryx.ram <= room
    moved = predict_step(plan, dict.fromkeys(plan.bodies, 0.001), (1e9, 1e9))
    assert moved.bytes_written == sum(r.nbytes for i, r in enumerate(plan.records) if i not in plan.cached)


def test_a_budget_below_the_buffers_is_refused(tmp_path):
    """The message says what the buffers need."""
    with pytest.raises(PlanError, match="for buffers and waiting gradients"):
        trainer(tmp_path, memoryx="disk", memoryx_memory=4096).plan(Ones())


def test_a_partly_cached_store_trains_to_the_same_bits(tmp_path):
    """Where a record lies changes nothing: the same operations run on the same numbers."""
    ram = trainer(tmp_path / "ram").fit(Ones(), steps=5)
    bare = trainer(tmp_path / "bare", memoryx="disk").plan(Ones())
    room = bare.memoryx.ram + 2 * bare.records[1].nbytes
    mixed = trainer(tmp_path / "mixed", memoryx="disk", memoryx_memory=room).fit(Ones(), steps=5)

    assert mixed.losses == ram.losses


def test_the_promised_peak_counts_what_the_coordinator_allocates(tmp_path):
    """host_bytes is systems, slots and MemoryX; replicas of a stage share the slots that they read."""
    one = trainer(tmp_path, memoryx="disk").plan(Ones())
    two = trainer(tmp_path, memoryx="disk", systems=2).plan(Ones())

    system = one.systems[0].memory
    assert one.host_bytes == system.peak + one.memoryx.ram
    both = sum(entry.memory.peak for entry in two.systems)
    assert two.host_bytes == both - two.systems[0].memory.weights + two.memoryx.ram
    assert msgspec.structs.asdict(two.memoryx)["store_disk"] == one.memoryx.store_disk
