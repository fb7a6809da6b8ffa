"""Ctrl-C: the first ends a run with a checkpoint, the second at once, and neither leaves anything behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from openwafer.cluster.store import Checkpoint, list_checkpoints
from openwafer.train import fit_config, load_recipe
from openwafer.train.report import read_metrics

PACED = Path(__file__).parent / "paced.py"
STEPS = 60
WAIT_S = 60.0


def start(folder: Path, *arguments: str, pause: float = 0.05) -> subprocess.Popen[str]:
    """`wafer train` in a process group of its own, as a shell starts it."""
    program = "import sys; from openwafer.cli import main; sys.argv[0] = 'wafer'; main()"
    return subprocess.Popen(
        [
            *(sys.executable, "-c", program, "train", str(PACED), f"steps={STEPS}", f"pause={pause}"),
            *("--folder", str(folder), *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_step(folder: Path, step: int, run: subprocess.Popen[str]) -> None:
    """Return when the run has reported a step."""
    metrics, end = folder / "metrics.jsonl", time.monotonic() + WAIT_S
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end, "the run does not get to its steps"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """Every process below this one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children_of(int(child))]
    return found


def is_alive(pid: int) -> bool:
    """True while the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_nothing_is_left(pids: list[int]) -> None:
    """Soon there is no process, and nothing of theirs in the shared memory of the machine."""
    end = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, f"still running: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.05)
    shared = [entry.name for entry in Path("/dev/shm").iterdir()] if Path("/dev/shm").is_dir() else []
    assert not [name for name in shared if any(f"_{pid}_" in name for pid in pids)]


def test_ctrl_c_ends_with_a_checkpoint_from_which_the_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    """An interrupted and resumed run is the run that was never interrupted."""
    folder = tmp_path / "run"
    run = start(folder)
    wait_for_step(folder, 10, run)
    begun = time.monotonic()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=WAIT_S)

    assert run.returncode == 130, err
    assert time.monotonic() - begun < 30
    assert "Ctrl-C: ending after the steps in hand, with a checkpoint; once more ends at once" in err
    last = list_checkpoints(folder / "checkpoints")[-1]
    step = Checkpoint.open(last, verify=True).step
    assert 10 <= step < STEPS
    assert f"Stopped by Ctrl-C after step {step}, with a checkpoint; go on with --resume" in out
    assert_nothing_is_left([run.pid])

    resumed = start(folder, "--resume", pause=0.0)
    out, err = resumed.communicate(timeout=WAIT_S)
    assert resumed.returncode == 0, err

    whole = replace(load_recipe(PACED, steps=STEPS), folder=str(tmp_path / "whole"))
    expected = fit_config(whole, console=Console(file=io.StringIO()))
    reports = read_metrics(folder / "metrics.jsonl").train
    assert [report.step for report in reports] == list(range(1, STEPS + 1))
    assert [report.loss for report in reports] == list(expected.losses)


def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A terminal signals the whole process group: the roles must neither complain nor outlive the run."""
    run = start(tmp_path, "--processes", pause=3.0)
    wait_for_step(tmp_path, 1, run)
    pids = [run.pid, *children_of(run.pid)]
    assert len(pids) >= 3

    begun = time.monotonic()
    os.killpg(run.pid, signal.SIGINT)
    time.sleep(1.0)  # two signals that come together are one
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=WAIT_S)

    assert run.returncode == 130
    assert time.monotonic() - begun < 30
    assert "Ended at once; --resume goes on from the last checkpoint" in err
    assert "Traceback" not in err
    assert_nothing_is_left(pids)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-0"]


@pytest.mark.slow
def test_ctrl_c_while_roles_start_does_not_kill_them(tmp_path: Path) -> None:
    """They import for seconds before they can ignore the signal; it is blocked for them until then."""
    run = start(tmp_path, "--processes")
    end = time.monotonic() + WAIT_S
    while len(pids := [run.pid, *children_of(run.pid)]) < 4:  # two roles and multiprocessing's tracker
        assert time.monotonic() < end, "the roles do not start"
        time.sleep(0.01)

    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=WAIT_S)

    assert run.returncode == 130, err
    assert "Stopped by Ctrl-C after step 0" in out
    assert "killed" not in out  # by the signal, and replaced
    assert "KeyboardInterrupt" not in err
    assert_nothing_is_left(pids)


@pytest.mark.slow
def test_a_killed_run_takes_its_roles_along(tmp_path: Path) -> None:
    """Nobody is there to tell them: they notice that the process that owns the transport is gone."""
    run = start(tmp_path, "--processes")
    wait_for_step(tmp_path, 1, run)
    pids = [run.pid, *children_of(run.pid)]

    run.kill()
    run.communicate(timeout=WAIT_S)

    assert_nothing_is_left(pids)
