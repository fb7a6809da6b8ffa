"""What a run does when something breaks: it recovers to the same numbers, or ends at once and says why."""

from __future__ import annotations

import ast
import gc
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fault_cases import CLIFF, Numbers, is_finite, kill_role, mlp, same_tensors, steep_error, trainer
from torch import Tensor, nn

from file_limit import no_file_above
from openwafer.artifact import Call, plan_from_json
from openwafer.base import (
    CheckpointError,
    InputError,
    NumericsError,
    RoleError,
    RoleLost,
    RunFolderError,
    StallError,
    StorageError,
)
from openwafer.cluster import Coordinator, Job, Step, StepDone, _coordinator, _system
from openwafer.cluster._codec import decode_job, encode_job
from openwafer.cluster._failures import format_trace
from openwafer.cluster.store import DiskStore, list_checkpoints
from openwafer.train import _run
from openwafer.train.data import Batch
from openwafer.train.report import Timeline, _reporter

STEPS = 12
STORES = ("ram", "disk")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take half a second a run and are tested elsewhere."""
    monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
    monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)


def wide_mlp() -> nn.Module:
    """Records of a megabyte, so that a limit on the size of files meets them and not the log."""
    return mlp(256)


def undisturbed(folder: Path, steps: int = STEPS, **options: object) -> Path:
    """The last checkpoint of a run that nothing happens to."""
    return trainer(folder, **options).fit(Numbers(), steps=steps, checkpoint_every=3).checkpoint


class Killer:
    """A callback that ends roles, each once, when their step is done."""

    def __init__(self, **steps: int) -> None:
        self.left = {step: role for role, step in steps.items()}

    def __call__(self, done: StepDone) -> None:
        if (role := self.left.pop(done.step, None)) is not None:
            kill_role(role)


# --- lost roles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "fail", "kills"),
    [
        pytest.param("disk", "memoryx:4", {"system1": 7}, id="disk-memoryx-system1"),
        pytest.param("ram", "system0:4", {"memoryx": 7}, id="ram-system0-memoryx", marks=pytest.mark.slow),
        pytest.param("ram", "system1:4", {"input0": 7}, id="ram-system1-input0", marks=pytest.mark.slow),
        pytest.param("disk", "input1:4", {"system0": 7}, id="disk-input1-system0", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_loses_roles_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, store: str, fail: str, kills: dict[str, int]
) -> None:
    """A checkpoint holds all that the steps after it depend on, so that doing them again gives the same bits.

    The first role ends itself as it begins a step; the others are killed from outside, wherever they are then.
    """
    expected = undisturbed(tmp_path / "undisturbed", systems=2, memoryx=store)

    with_inputs = "input0" in kills or fail.startswith("input")
    disturbed = trainer(
        tmp_path / "disturbed", systems=2, memoryx=store, processes=True, input_processes=with_inputs
    )
    killer = Killer(**kills)
    result = disturbed.fit(Numbers(), steps=STEPS, checkpoint_every=3, callbacks=[killer], fail=fail)

    assert not killer.left
    assert len(result.losses) == STEPS
    assert same_tensors(result.checkpoint, expected)
    log = (tmp_path / "disturbed" / "log.txt").read_text()
    assert log.count("SIGKILL") == log.count("going on from checkpoint-") == len(kills) + bool(fail)


def test_a_role_that_dies_every_time_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning again for ever would hide a machine that is too small."""
    monkeypatch.setattr(_run, "MAX_RECOVERIES", 1)
    killed = []

    def killer(done: StepDone) -> None:
        if done.step == 0:
            killed.append(time.monotonic())
            kill_role("system0")

    with pytest.raises(RoleLost, match=r"^system0 was killed by signal 9 \(SIGKILL\).*--resume"):
        trainer(tmp_path, processes=True).fit(Numbers(), steps=STEPS, checkpoint_every=99, callbacks=[killer])

    assert len(killed) == 2
    assert time.monotonic() - killed[-1] < 30


@pytest.mark.parametrize("store", STORES)
def test_an_exception_in_a_role_ends_the_run_with_it_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """In a notebook the process lives on: threads and locks that stay would be in the way of the next run."""
    threads = threading.active_count()
    call = _system.SystemRole.call
    calls = []

    def broken(self: _system.SystemRole, which: Call, values: list[object]) -> object:
        calls.append(which)
        if len(calls) == 40:
            raise ZeroDivisionError("a bug of ours")
        return call(self, which, values)

    monkeypatch.setattr(_system.SystemRole, "call", broken)
    run = trainer(tmp_path, memoryx=store)
    with pytest.raises(RoleError, match=r"system0 failed: ZeroDivisionError: a bug of ours\n"):
        run.fit(Numbers(), steps=STEPS, checkpoint_every=3)
    assert threading.active_count() == threads

    result = trainer(tmp_path, memoryx=store).fit(Numbers(), steps=STEPS, resume=True)
    assert same_tensors(result.checkpoint, undisturbed(tmp_path / "undisturbed", memoryx=store))


def test_a_role_without_memory_says_what_would_need_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own message is a line of C++; the run ends with StorageError, which is not tried again."""

    def greedy(self: _system.SystemRole, which: Call, values: list[object]) -> object:
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(_system.SystemRole, "call", greedy)
    with pytest.raises(StorageError, match=r"system0: there is no more memory \(.*lower the batch"):
        trainer(tmp_path).fit(Numbers(), steps=STEPS)


def test_a_batch_that_cannot_be_made_is_the_error_that_the_user_sees(tmp_path: Path) -> None:
    """Everyone else loses the input worker; that is no news."""
    with pytest.raises(RoleError, match=r"input[01] failed: ValueError: sample 17 is unreadable"):
        trainer(tmp_path, systems=2).fit(Numbers(fail_at=5), steps=STEPS)


@pytest.mark.parametrize("patience", [1.0, 0.5])
def test_a_stalled_role_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """A hung data pipeline looks like a slow one, up to stall_s. Whoever notices first, the error says who waited for
    whom, down to the one that hangs.
    """
    wait_any = _coordinator.wait_any
    monkeypatch.setattr(_coordinator, "wait_any", lambda who, timeout_s: wait_any(who, timeout_s * patience))
    stop = threading.Event()
    batch = Numbers.batch

    def hangs(self: Numbers, step: int) -> Batch:
        if step == 4:
            stop.wait(4.0)
        return batch(self, step)

    monkeypatch.setattr(Numbers, "batch", hangs)
    begun = time.monotonic()
    with pytest.raises(StallError, match=r"system0 waited .* for input0"):
        trainer(tmp_path, stall_s=0.5).fit(Numbers(), steps=STEPS)

    assert time.monotonic() - begun < 30
    stop.set()


@pytest.mark.parametrize("store", STORES)
def test_many_quick_starts_and_stops_leave_nothing_behind(tmp_path: Path, store: str) -> None:
    """A role may be told to stop before it has done anything, or with a step in hand."""
    result = trainer(tmp_path, memoryx=store).fit(Numbers(), steps=1)
    plan = plan_from_json((tmp_path / "plan.json").read_bytes())
    job = Job(
        plan=plan, seed=0, start=str(result.checkpoint), store_folders=(str(tmp_path / "s"),), stall_s=20.0
    )

    def batches(number: int, train: bool) -> dict[str, Tensor]:
        x, y = Numbers().batch(number)
        return {"input0": x, "input1": y}

    threads = threading.active_count()
    for start in range(30):
        steps = range(1, 1 + start % 3)
        with Coordinator(job, lambda replica: batches, processes=False) as coordinator:
            done = list(coordinator.run(Step(number=step, batch=step, train=True) for step in steps))
        assert len(done) == len(steps)

    assert threading.active_count() == threads


def test_first_decodes_in_many_threads_at_once_are_safe(tmp_path: Path) -> None:
    """Roles that are threads decode the same job at the same moment, in a process that never did before.

    msgspec's first look into a type crashed then, in one start of thirty.
    """
    program = """
import sys, threading
from openwafer.cluster import _codec
job = open(sys.argv[1], "rb").read()
sys.setswitchinterval(1e-6)
barrier, decoded = threading.Barrier(8), []
def decode():
    barrier.wait()
    decoded.append(_codec.decode_job(job).plan.records)
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(30)
sys.exit(len(decoded) != 8)
"""
    (tmp_path / "job").write_bytes(encoded_job(tmp_path))

    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "job")], timeout=60)

    assert ended.returncode == 0


def test_a_role_that_fails_does_not_disturb_one_that_reads_its_plan(tmp_path: Path) -> None:
    """Both parse Python: the plan's bodies, and the lines of a traceback.

    CPython 3.11 counts the depth of ast.parse for all threads together, and ends in a SystemError when one comes
    between another, as the garbage collector lets it. The test puts it there.
    """
    job = encoded_job(tmp_path)
    reader, inside, formatted = threading.current_thread(), threading.Event(), threading.Event()

    def collected(phase: str, info: object) -> None:
        parsing = sys._getframe(1).f_code is ast.parse.__code__ and threading.current_thread() is reader
        if parsing and phase == "start" and not inside.is_set():
            inside.set()
            formatted.wait(0.3)

    def fail(depth: int) -> str:
        if depth:
            return fail(depth - 1)
        try:
            return "a" + {"b": "c"}["d"] + "e"
        except KeyError as error:
            inside.wait(10)
            trace = format_trace(error)
            formatted.set()
            return trace

    failing = threading.Thread(target=fail, args=(5,))
    thresholds = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(10)
    try:
        failing.start()
        assert decode_job(job).plan.body
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*thresholds)
        failing.join()

    assert inside.is_set()
    assert formatted.is_set()


def encoded_job(folder: Path) -> bytes:
    return encode_job(Job(plan=trainer(folder).plan(Numbers()), seed=0, start=""))


# --- numbers that are none --------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_a_nan_is_named_by_step_and_origin_and_never_reaches_a_checkpoint(tmp_path: Path, store: str) -> None:
    """The checkpoint of the step is asked for before its loss is known; MemoryX itself must refuse it."""
    with pytest.raises(
        NumericsError, match=r"loss is nan at step 5; .* is the input 'input1'; .*checkpoint-[34]: lower"
    ):
        trainer(tmp_path, memoryx=store).fit(Numbers(nan_at=4), steps=STEPS, checkpoint_every=1)

    found = list_checkpoints(tmp_path / "checkpoints")
    assert found[-1].name in ("checkpoint-3", "checkpoint-4")  # the second may still be on its way
    assert all(map(is_finite, found))
    assert not list((tmp_path / "checkpoints").glob("*.tmp-*"))

    result = trainer(tmp_path, memoryx=store).fit(Numbers(), steps=STEPS, resume=True)
    assert same_tensors(result.checkpoint, undisturbed(tmp_path / "undisturbed", memoryx=store))


def test_a_nan_that_a_layer_makes_is_named_by_that_layer(tmp_path: Path) -> None:
    """All that comes after it is NaN as well; the first is where to look."""

    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), Root(), nn.Linear(8, 8), nn.Linear(8, 4))

    with pytest.raises(NumericsError, match=r"loss is nan at step 1; .* is the output of .*[12]"):
        trainer(tmp_path, model=model).fit(Numbers(), steps=STEPS)


@pytest.mark.parametrize("store", STORES)
def test_weights_that_overflow_under_a_finite_loss_are_refused(tmp_path: Path, store: str) -> None:
    """The loss of the last step says nothing of the update that follows it."""
    with pytest.raises(NumericsError, match=r"weight holds NaN or infinity after step 1, .*checkpoint-0"):
        trainer(tmp_path, CLIFF, loss=steep_error, memoryx=store).fit(Numbers(), steps=1)

    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-0"]


# --- disks ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "openwafer", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    assert os.statvfs(folder).f_bavail == 0


@pytest.mark.parametrize("store", STORES)
def test_a_full_disk_at_the_start_is_an_error_that_says_how_much_is_missing(
    small_disk: Path, store: str
) -> None:
    """Before anything runs; not a run that dies at its first checkpoint, hours later."""
    fill(small_disk)

    with pytest.raises(StorageError, match=r"needed, 0 B free|No space left"):
        trainer(small_disk / "run", memoryx=store, model=wide_mlp).fit(Numbers(), steps=2)


def test_the_space_of_a_disk_store_is_taken_before_training(tmp_path: Path) -> None:
    """A store that does not fit must not be found out layer by layer."""
    with no_file_above(700_000), pytest.raises(StorageError, match=r"memoryx: .*needed, .*free"):
        trainer(tmp_path, memoryx="disk", model=wide_mlp).fit(Numbers(), steps=2)


@pytest.mark.parametrize("store", STORES)
def test_a_disk_that_fills_up_under_a_run_costs_no_checkpoint(tmp_path: Path, store: str) -> None:
    """With ram the next checkpoint does not fit, with disk the next update; the one before stays and is enough."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(done: StepDone) -> None:
        if done.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        with pytest.raises(StorageError, match=r"memoryx: .*File too large.*needed, .*free"):
            trainer(tmp_path, memoryx=store, model=wide_mlp).fit(
                Numbers(), steps=STEPS, checkpoint_every=3 if store == "ram" else 2, callbacks=[full]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names <= {"checkpoint-0", "checkpoint-2", "checkpoint-3", "checkpoint-4"}
    assert len(names) > 1

    resumed = trainer(tmp_path, memoryx=store, model=wide_mlp).fit(Numbers(), steps=STEPS, resume=True)
    assert same_tensors(resumed.checkpoint, undisturbed(tmp_path / "u", memoryx=store, model=wide_mlp))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def damage_checkpoint(checkpoint: Path, damage: Callable[[Path], None]) -> None:
    damage(sorted(checkpoint.glob("weights-*"))[1])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """A flipped bit has the right size: only its hash tells, so that resuming reads every byte."""
    undisturbed(tmp_path, 9)
    damage_checkpoint(tmp_path / "checkpoints" / "checkpoint-9", damage)

    result = trainer(tmp_path).fit(Numbers(), steps=STEPS, checkpoint_every=3, resume=True)

    assert len(result.losses) == STEPS - 6
    assert same_tensors(result.checkpoint, undisturbed(tmp_path / "undisturbed"))
    log = (tmp_path / "log.txt").read_text()
    assert "checkpoint-9 is passed over" in log
    assert "damaged" in log


def test_a_run_whose_checkpoints_are_all_damaged_cannot_be_resumed(tmp_path: Path) -> None:
    """Starting anew without a word would throw the run away."""
    undisturbed(tmp_path, 6)
    for checkpoint in list_checkpoints(tmp_path / "checkpoints"):
        damage_checkpoint(checkpoint, flip_a_bit)

    with pytest.raises(CheckpointError, match="checkpoint-6 is damaged: the hash of weights"):
        trainer(tmp_path).fit(Numbers(), steps=STEPS, resume=True)


def test_a_torn_memoryx_store_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    """Its records are of different steps; the run goes on from its last checkpoint instead."""
    with pytest.raises(RoleError, match="unreadable"):
        trainer(tmp_path, memoryx="disk").fit(Numbers(fail_at=8), steps=STEPS, checkpoint_every=3)
    records = plan_from_json((tmp_path / "plan.json").read_bytes()).records

    with pytest.raises(CheckpointError, match=r"is torn: .*Resume from the last checkpoint"):
        DiskStore(tmp_path / "memoryx", records)

    result = trainer(tmp_path, memoryx="disk").fit(Numbers(), steps=STEPS, resume=True)
    assert same_tensors(result.checkpoint, undisturbed(tmp_path / "undisturbed", memoryx="disk"))


# --- folders ----------------------------------------------------------------------------------------------


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    """Two runs in one folder would mix their checkpoints."""
    seen = []

    def second(done: StepDone) -> None:
        with pytest.raises(RunFolderError, match="is in use by this process"):
            trainer(tmp_path).fit(Numbers(), steps=1)
        seen.append(done.step)

    result = trainer(tmp_path).fit(Numbers(), steps=3, callbacks=[second])

    assert seen == [0, 1, 2]
    assert same_tensors(result.checkpoint, undisturbed(tmp_path / "undisturbed", 3))


def test_a_disk_store_takes_one_run_at_a_time(tmp_path: Path) -> None:
    """Two run folders may name one `disk:/path`."""
    store = f"disk:{tmp_path / 'store'}"

    def second(done: StepDone) -> None:
        with pytest.raises(RunFolderError, match=r"memoryx: .*store is in use by process"):
            trainer(tmp_path / f"other{done.step}", memoryx=store).fit(Numbers(), steps=1)

    trainer(tmp_path / "run", memoryx=store).fit(Numbers(), steps=2, callbacks=[second])


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    """The message names what differs, because the user may have mistyped either."""
    trainer(tmp_path).fit(Numbers(), steps=1, config={"lr": 1})

    with pytest.raises(RunFolderError, match=r"lr: 1 there, 2 asked"):
        trainer(tmp_path).fit(Numbers(), steps=1, config={"lr": 2})


def test_another_model_cannot_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """`resume` allows another configuration, but weights must have a place to go."""
    trainer(tmp_path).fit(Numbers(), steps=1)

    with pytest.raises(CheckpointError, match=r"is of another model or optimizer: .*\[256"):
        trainer(tmp_path, model=wide_mlp).fit(Numbers(), steps=2, resume=True)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    """A mistyped folder would begin at step 0 otherwise; nothing is made there."""
    with pytest.raises(InputError, match=r"typo has no checkpoint to go on from; leave --resume away"):
        trainer(tmp_path / "typo").fit(Numbers(), steps=1, resume=True)

    assert not (tmp_path / "typo").exists()


def test_a_finished_run_goes_on_only_with_more_steps(tmp_path: Path) -> None:
    """`steps` counts those of the run that is resumed."""
    undisturbed(tmp_path, 6)

    with pytest.raises(InputError, match=r"has 6 steps already, and steps=6 asks for no more"):
        trainer(tmp_path).fit(Numbers(), steps=6, resume=True)
    with pytest.raises(InputError, match=r"holds a run with 6 steps; go on with it \(--resume\)"):
        trainer(tmp_path).fit(Numbers(), steps=12)

    result = trainer(tmp_path).fit(Numbers(), steps=12, resume=True)
    assert (result.steps, len(result.losses)) == (12, 6)
    assert same_tensors(result.checkpoint, undisturbed(tmp_path / "undisturbed", 12))


def test_data_of_an_input_process_must_pickle(tmp_path: Path) -> None:
    """Said before anything starts, with what to do."""

    class Local(Numbers):
        pass

    with pytest.raises(InputError, match=r"input0 cannot be a process .*top level of a module"):
        trainer(tmp_path, processes=True, input_processes=True).fit(Local(), steps=1)


def test_a_fault_is_injected_into_processes_only(tmp_path: Path) -> None:
    """A thread that kills its process would take the test run along."""
    with pytest.raises(InputError, match=r"fail='system0:1' kills .*set processes=True"):
        trainer(tmp_path).fit(Numbers(), steps=2, fail="system0:1")
    with pytest.raises(InputError, match=r"fail='input0:1' kills .*input_processes=True"):
        trainer(tmp_path, processes=True).fit(Numbers(), steps=2, fail="input0:1")
