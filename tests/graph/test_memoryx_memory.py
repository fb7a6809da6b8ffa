"""What a disk store keeps in RAM, and where gradients wait."""

import pytest
from prediction_cases import Ones, trainer

from openwafer.artifact import DiskSpeed, describe_plan
from openwafer.base import PlanError
from openwafer.graph import hide_disk, predict_step
from openwafer.train._prediction import Prediction, predict


def test_ram_that_is_given_keeps_records_from_the_end(tmp_path):
    """What the buffers leave of the budget holds whole records, and a step moves fewer bytes for them."""
    bare = trainer(tmp_path, memoryx="disk").plan(Ones())
    room = bare.memoryx.ram + 2 * bare.records[1].nbytes

    plan = trainer(tmp_path, memoryx="disk", memoryx_memory=room).plan(Ones())

    assert plan.cached
    assert max(plan.cached) == len(plan.records) - 1
    assert plan.memoryx.ram <= room
    moved = predict_step(plan, dict.fromkeys(plan.bodies, 0.001), DiskSpeed(1e9, 1e9))
    assert moved.bytes_written == sum(r.nbytes for i, r in enumerate(plan.records) if i not in plan.cached)


def test_a_budget_below_the_buffers_is_refused(tmp_path):
    """The message says what the buffers need."""
    with pytest.raises(PlanError, match="for buffers, but memoryx_memory"):
        trainer(tmp_path, memoryx="disk", memoryx_memory=4096).plan(Ones())


def test_a_partly_cached_store_trains_to_the_same_bits(tmp_path):
    """Where a record lies changes nothing: the same operations run on the same numbers."""
    ram = trainer(tmp_path / "ram").fit(Ones(), steps=5)
    bare = trainer(tmp_path / "bare", memoryx="disk").plan(Ones())
    room = bare.memoryx.ram + 2 * bare.records[1].nbytes
    mixed = trainer(tmp_path / "mixed", memoryx="disk", memoryx_memory=room).fit(Ones(), steps=5)

    assert mixed.losses == ram.losses


def test_gradients_wait_on_disk_where_the_budget_has_no_room(tmp_path):
    """Clipping needs all of them at once; the plan says where they are, and the numbers are the same."""
    bare = trainer(tmp_path, clip=0.1, memoryx="disk").plan(Ones())
    room = bare.memoryx.buffers

    plan = trainer(tmp_path, clip=0.1, memoryx="disk", memoryx_memory=room).plan(Ones())
    ram = trainer(tmp_path / "ram", clip=0.1).fit(Ones(), steps=5)
    spilled = trainer(tmp_path / "spilled", clip=0.1, memoryx="disk", memoryx_memory=room).fit(
        Ones(), steps=5
    )

    assert bare.memoryx.gradients > 0
    assert plan.memoryx.gradients == 0
    assert plan.memoryx.gradients_disk == bare.memoryx.gradients
    assert plan.memoryx.ram <= room
    assert "of gradients" in describe_plan(plan)
    assert spilled.losses == ram.losses
    assert not list((tmp_path / "spilled" / "memoryx").glob("tmp*"))


def test_as_few_records_stay_in_ram_as_hide_the_disk(tmp_path):
    """A disk three times too slow for the arithmetic is hidden by keeping two thirds of the records, no more."""
    plan = trainer(tmp_path, memoryx="disk", memoryx_memory="auto").plan(Ones())
    bodies = dict.fromkeys(plan.bodies, 0.01)
    alone = predict_step(plan, bodies, DiskSpeed(1e6, 1e6))
    speed = alone.disk_s * 1e6 / (3 * alone.compute_s)

    kept = hide_disk(plan, bodies, DiskSpeed(speed, speed), 10**9)
    none = hide_disk(plan, bodies, DiskSpeed(1e12, 1e12), 10**9)
    little = hide_disk(plan, bodies, DiskSpeed(speed, speed), plan.records[-1].nbytes)

    hidden = predict_step(kept, bodies, DiskSpeed(speed, speed))
    assert hidden.disk_s <= hidden.compute_s
    assert hidden.critical_batch <= plan.batch
    share = sum(kept.records[index].nbytes for index in kept.cached) / sum(r.nbytes for r in kept.records)
    assert 0.6 < share < 0.9
    assert kept.memoryx.ram > plan.memoryx.ram
    assert not none.cached
    assert little.cached == (len(plan.records) - 1,)


def test_a_measured_plan_says_what_it_keeps(tmp_path):
    """The measurement decides, whatever it is: what it says is what the plan does."""
    run = trainer(tmp_path, memoryx="disk", memoryx_memory="auto")
    plan = run.plan(Ones())

    found = predict(plan, run.cluster, {}, run.cluster.store_folders(tmp_path))

    assert isinstance(found, Prediction)
    assert ("stay in RAM" in found.text) == bool(found.plan.cached)
    assert found.plan.bodies == plan.bodies
    assert "Disk=" in found.text
