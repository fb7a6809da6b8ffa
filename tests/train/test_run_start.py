"""Which checkpoint a run begins with, and which it goes on from when a role is lost."""

from __future__ import annotations

import pytest
import torch
from fault_cases import Numbers, mlp, same_tensors, trainer

from openwafer.base import CheckpointError, RoleLost
from openwafer.cluster.store import Checkpoint, latest_checkpoint
from openwafer.train import _run
from openwafer.train._start import last_whole, write_initial
from openwafer.train.report import RunFolder, Timeline, _reporter

STEPS = 20


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Pictures take half a second a run and are tested elsewhere."""
    monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
    monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The plan of the MLP with AdamW."""
    return trainer(tmp_path_factory.mktemp("plan")).plan(Numbers())


# --- the beginning ----------------------------------------------------------------------------------------


def test_the_initial_checkpoint_holds_the_modules_weights_and_an_optimizer_that_did_nothing(tmp_path, plan):
    """A run that begins reads its weights where one that goes on does, so that there is one way to start."""
    module = mlp()

    start = write_initial(RunFolder(tmp_path), plan, module, None, seed=0)

    assert (start.step, start.folder.name) == (0, "checkpoint-0")
    for name, value in module.state_dict().items():
        assert torch.equal(start.tensor(name), value)
    state = set(start.types) - set(start.weights)
    assert state
    assert not any(start.tensor(name).any() for name in state)


def test_given_weights_come_before_the_modules_own(tmp_path, plan):
    """Fine-tuning begins from what was given, under the same names."""
    given = {name: torch.full_like(value, 0.5) for name, value in mlp().state_dict().items()}

    start = write_initial(RunFolder(tmp_path), plan, mlp(), given, seed=0)

    assert all(torch.equal(start.tensor(name), value) for name, value in given.items())


def test_a_run_that_never_got_to_a_step_is_begun_again(tmp_path, plan):
    """Its checkpoint-0 is nobody's work, and may be of other weights than those that are asked for now."""
    write_initial(RunFolder(tmp_path), plan, mlp(), None, seed=0)
    module = mlp()

    start = write_initial(RunFolder(tmp_path), plan, module, None, seed=0)

    assert torch.equal(start.tensor("0.weight"), module[0].weight)


def test_a_folder_without_any_checkpoint_cannot_be_resumed(tmp_path, plan):
    """They may vanish between the look that the Trainer has and the start."""
    told = []

    with pytest.raises(CheckpointError, match=r"lost its checkpoints; start the run anew"):
        last_whole(RunFolder(tmp_path), plan, told.append)

    assert told == []


# --- lost roles -------------------------------------------------------------------------------------------


def test_a_run_recovers_though_the_checkpoint_it_began_with_is_gone(tmp_path):
    """Only the last few are kept, so that of a long run checkpoint-0 is removed long before a role is lost."""
    checkpoints = RunFolder(tmp_path / "disturbed").checkpoints
    lost = []

    def lose_a_role(done):
        if not lost and not (checkpoints / "checkpoint-0").exists():
            lost.append(done.step)
            raise RoleLost("system0 was killed; resume")

    disturbed = trainer(tmp_path / "disturbed")
    result = disturbed.fit(
        Numbers(), steps=STEPS, checkpoint_every=1, keep_checkpoints=2, callbacks=[lose_a_role]
    )

    assert lost
    expected = trainer(tmp_path / "undisturbed").fit(Numbers(), steps=STEPS)
    assert result.losses == expected.losses
    assert same_tensors(result.checkpoint, expected.checkpoint)


def test_a_run_recovers_from_the_last_checkpoint_that_is_whole(tmp_path, monkeypatch):
    """A bit that fell over on the disk must not come back as a weight."""
    checkpoints = RunFolder(tmp_path / "disturbed").checkpoints
    damaged = []

    def lose_a_role(done):
        if not damaged and Checkpoint.open(latest_checkpoint(checkpoints)).step >= 6:
            raise RoleLost("system0 was killed; resume")

    def damage_the_latest(*arguments):
        """As recovery begins: by then no role writes a later one."""
        latest = latest_checkpoint(checkpoints)
        damaged.append(latest.name)
        file = max(latest.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
        return last_whole(*arguments)

    monkeypatch.setattr(_run, "last_whole", damage_the_latest)
    disturbed = trainer(tmp_path / "disturbed")
    result = disturbed.fit(Numbers(), steps=STEPS, checkpoint_every=3, callbacks=[lose_a_role])

    log = (tmp_path / "disturbed" / "log.txt").read_text()
    assert f"{damaged[0]} is passed over" in log
    expected = trainer(tmp_path / "undisturbed").fit(Numbers(), steps=STEPS)
    assert same_tensors(result.checkpoint, expected.checkpoint)


def test_a_run_that_gets_on_between_them_may_lose_any_number_of_roles(tmp_path, monkeypatch):
    """A long run on many machines loses some; what MAX_RECOVERIES ends is a run that does the same steps again."""
    monkeypatch.setattr(_run, "MAX_RECOVERIES", 1)
    checkpoints = RunFolder(tmp_path).checkpoints
    lost, begun = [], []

    def lose_a_role(done):
        begun.append(done.step)
        latest = latest_checkpoint(checkpoints)
        if len(lost) < 3 and Checkpoint.open(latest).step > begun[0]:
            lost.append(done.step)
            begun.clear()
            raise RoleLost("system0 was killed; resume")

    options = {"checkpoint_every": 1, "keep_checkpoints": 50}
    result = trainer(tmp_path).fit(Numbers(), steps=40, callbacks=[lose_a_role], **options)

    assert len(lost) == 3
    assert len(result.losses) == result.steps == 40
