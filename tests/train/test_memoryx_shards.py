"""Several MemoryX shards compute what one computes, and end as one does when something breaks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fault_cases import FEATURES, Numbers, is_finite, kill_role, same_tensors, trainer
from torch import Tensor, nn

from openwafer.artifact import EXCHANGE_BYTES, Plan, plan_from_json, plan_to_json
from openwafer.base import NumericsError, PlanError, RoleLost
from openwafer.cluster import StepDone
from openwafer.cluster.store import Checkpoint
from openwafer.train import _run
from openwafer.train.optim import AdamW, clip_by_global_norm
from openwafer.train.report import Timeline, _reporter

STEPS = 10
CLIPPED = clip_by_global_norm(AdamW(lr=1e-2), 0.5)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take half a second a run and are tested elsewhere."""
    monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
    monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)


class Everything(nn.Module):
    """A tied weight, batch statistics, a frozen weight, and layers of different sizes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.norm = nn.BatchNorm1d(width)
        self.middle = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.frozen = nn.Linear(width, FEATURES)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(FEATURES, width)
        self.head.weight = self.first.weight
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        for layer in self.middle:
            x = x + torch.tanh(layer(x))
        x = self.last(torch.relu(self.head(torch.tanh(self.frozen(x)))))
        assert isinstance(x, Tensor)
        return x


@pytest.mark.parametrize("optimizer", [AdamW(lr=1e-2), CLIPPED], ids=["adamw", "clipped"])
@pytest.mark.parametrize(
    ("store", "execution", "systems", "shards"),
    [
        ("ram", "weight_streaming", 1, 2),
        ("disk", "weight_streaming", 2, 3),
        ("ram", "pipelined", 2, 3),
        ("disk", "pipelined", 2, 2),
    ],
)
def test_shards_compute_what_one_memoryx_computes(
    tmp_path: Path, store: str, execution: str, systems: int, shards: int, optimizer: AdamW
) -> None:
    """Bit for bit: a record's update is the same wherever it runs, and the norm over all records is added up in the
    plan's order.
    """
    options = {"memoryx": store, "execution": execution, "systems": systems, "microbatch": 4}
    one = trainer(tmp_path / "one", optimizer, Everything, **options)
    several = trainer(tmp_path / "several", optimizer, Everything, memoryx_shards=shards, **options)

    expected = one.fit(Numbers(), Numbers(), steps=STEPS, eval_every=5, eval_batches=2, checkpoint_every=5)
    found = several.fit(Numbers(), Numbers(), steps=STEPS, eval_every=5, eval_batches=2, checkpoint_every=5)

    assert found.losses == expected.losses
    assert found.eval_losses == expected.eval_losses
    for step in (5, STEPS):
        name = f"checkpoints/checkpoint-{step}"
        assert same_tensors(tmp_path / "several" / name, tmp_path / "one" / name)
    plan = plan_from_json((tmp_path / "several" / "plan.json").read_bytes())
    assert len(plan.memoryx_records) == shards
    if store == "disk":
        for shard, records in enumerate(plan.memoryx_records):
            files = list((tmp_path / "several" / "memoryx" / f"shard-{shard}" / "records").iterdir())
            assert len(files) == len(records)


@pytest.mark.parametrize("execution", ["weight_streaming", "pipelined"])
def test_a_system_with_memory_of_its_own_reads_from_every_shard(tmp_path: Path, execution: str) -> None:
    """It copies from several rings at once; `copying` is as late as a device may be."""
    options = {"execution": execution, "systems": 2, "microbatch": 4, "memoryx": "disk"}
    host = trainer(tmp_path / "host", CLIPPED, Everything, **options)
    device = trainer(tmp_path / "device", CLIPPED, Everything, device="copying", memoryx_shards=2, **options)

    expected, found = host.fit(Numbers(), steps=STEPS), device.fit(Numbers(), steps=STEPS)

    assert found.losses == expected.losses
    assert same_tensors(found.checkpoint, expected.checkpoint)


def test_a_run_goes_on_with_another_number_of_shards(tmp_path: Path) -> None:
    """A checkpoint does not know who kept what: a job that outgrew one disk takes another."""
    whole = trainer(tmp_path / "whole", CLIPPED, Everything, memoryx="disk").fit(Numbers(), steps=STEPS)
    trainer(tmp_path / "run", CLIPPED, Everything, memoryx="disk").fit(Numbers(), steps=4)
    folders = f"disk:{tmp_path / 'a'},{tmp_path / 'b'}"
    later = trainer(tmp_path / "run", CLIPPED, Everything, memoryx=folders)

    result = later.fit(Numbers(), steps=STEPS, resume=True)

    assert result.losses == whole.losses[4:]
    assert same_tensors(result.checkpoint, whole.checkpoint)
    assert all(any((tmp_path / folder / "records").iterdir()) for folder in "ab")


def test_records_larger_than_a_message_between_shards_arrive_whole(tmp_path: Path) -> None:
    """They travel in pieces; the last one is smaller than the others."""

    def model() -> nn.Module:
        square = [nn.Linear(1200, 1200) for _ in range(2)]
        return nn.Sequential(nn.Linear(FEATURES, 1200), *square, nn.Linear(1200, 4))

    options = {"memoryx": "disk", "model": model}
    plan = trainer(tmp_path, memoryx_shards=2, **options).plan(Numbers())
    sizes = [plan.records[index].nbytes for index in plan.memoryx_records[1]]
    assert any(size > EXCHANGE_BYTES and size % EXCHANGE_BYTES for size in sizes)

    one = trainer(tmp_path / "one", **options).fit(Numbers(), steps=2)
    two = trainer(tmp_path / "two", memoryx_shards=2, **options).fit(Numbers(), steps=2)

    assert same_tensors(one.checkpoint, two.checkpoint)


def test_a_killed_shard_is_recovered_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Each shard is a role like others: the run repeats the steps since its checkpoint, to the same bits."""
    expected = trainer(tmp_path / "undisturbed", memoryx_shards=2).fit(Numbers(), steps=STEPS)
    killed = []

    def kill(done: StepDone) -> None:
        if done.step == 6 and not killed:
            killed.append(done.step)
            kill_role("memoryx1")

    disturbed = trainer(tmp_path / "disturbed", memoryx="disk", memoryx_shards=2, processes=True)
    result = disturbed.fit(Numbers(), steps=STEPS, checkpoint_every=3, callbacks=[kill], fail="memoryx1:4")

    assert killed
    assert same_tensors(result.checkpoint, expected.checkpoint)
    log = (tmp_path / "disturbed" / "log.txt").read_text()
    assert log.count("memoryx1 was killed by signal 9 (SIGKILL)") == 2


def test_a_shard_that_dies_every_time_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error that says so, and nothing left running."""
    monkeypatch.setattr(_run, "MAX_RECOVERIES", 0)
    run = trainer(tmp_path, memoryx_shards=2, processes=True)

    with pytest.raises(RoleLost, match=r"^memoryx1 was killed by signal 9 \(SIGKILL\).*--resume"):
        run.fit(Numbers(), steps=STEPS, fail="memoryx1:3")


def test_nan_in_another_shard_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The first shard looks at what every shard hands over, before anything gets its final name."""
    run = trainer(tmp_path, AdamW(lr=1e38), memoryx_shards=3)

    with pytest.raises(NumericsError, match=r"last good checkpoint is .*checkpoint-0"):
        run.fit(Numbers(), steps=STEPS, checkpoint_every=1)

    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-0"]
    assert is_finite(tmp_path / "checkpoints" / "checkpoint-0")
    assert Checkpoint.open(tmp_path / "checkpoints" / "checkpoint-0").step == 0


def test_records_are_dealt_evenly_and_neighbours_apart(tmp_path: Path) -> None:
    """So that shards read at the same time, and hold as much as each other."""
    model = lambda: nn.Sequential(*(nn.Linear(64, 64) for _ in range(12)))  # noqa: E731

    def plan(**cluster: object) -> Plan:
        return trainer(tmp_path, model=model, **cluster).plan(Wide())

    one, three = plan(memoryx="disk"), plan(memoryx="disk", memoryx_shards=3)
    held = [sum(three.records[index].nbytes for index in own) for own in three.memoryx_records]

    assert sorted(index for own in three.memoryx_records for index in own) == list(range(len(three.records)))
    assert max(held) - min(held) <= max(record.nbytes for record in three.records)
    assert all(a != b for a, b in pairwise(three.memoryx_of))
    assert three.memoryx.store_disk == one.memoryx.store_disk
    assert three.memoryx.buffers > one.memoryx.buffers
    assert plan_from_json(plan_to_json(three)) == three


def test_more_shards_than_layers_are_refused(tmp_path: Path) -> None:
    """A shard without a record has nothing to do."""
    with pytest.raises(PlanError, match=r"9 MemoryX shards .* 3 layers with weights .* at most 3"):
        trainer(tmp_path, memoryx_shards=9).plan(Numbers())


class Wide(Numbers):
    """The same with 64 features on both sides."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(8, 64, generator=generator), torch.randn(8, 64, generator=generator)
