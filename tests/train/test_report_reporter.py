"""Reporter: the same numbers on the console, in log.txt, in metrics.jsonl and in TensorBoard."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openwafer.base import StorageError
from openwafer.train.report import EvalReport, Reporter, RunFolder, StepReport, read_metrics


class Clock:
    """Seconds that pass when the test says so."""

    now = 50.0

    def __call__(self):
        return self.now


class Run:
    """A reporter with its console and clock at hand."""

    def __init__(self, path, total_steps=10, **options):
        self.clock = Clock()
        self.text = io.StringIO()
        options.setdefault("console", Console(file=self.text, width=40))
        self.folder = RunFolder.create(path, {}, resume=True)
        self.reporter = Reporter(self.folder, total_steps, clock=self.clock, **options)

    def step(self, number, loss=1.5, samples=16, seconds=0.5, **fields):
        self.clock.now += seconds
        self.reporter.step(StepReport(step=number, loss=loss, samples=samples, seconds=seconds, **fields))

    def evaluate(self, number, loss=2.5, seconds=4.0, **fields):
        self.clock.now += seconds
        self.reporter.evaluation(EvalReport(step=number, loss=loss, samples=100, seconds=seconds, **fields))

    def lines(self):
        return self.text.getvalue().splitlines()

    def close(self):
        self.reporter.close()
        self.folder.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def events(folder):
    """Each scalar tag with its (step, value) pairs, as TensorBoard shows them."""
    accumulator = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_the_train_line_is_the_one_users_of_the_field_know(tmp_path):
    """Existing scripts read rates out of it with regular expressions. 200 steps of 16 samples in 100 s."""
    with Run(tmp_path, 280, log_every=100, device_label="CPU", loop_steps=240) as run:
        for number in range(1, 201):
            run.step(number, loss=6.098341)

        assert run.lines()[-1] == (
            "| Train Device=CPU, Step=200, Loss=6.09834, Rate=32.00 samples/sec, "
            "GlobalRate=32.00 samples/sec, LoopTimeRemaining=0:00:20, TimeRemaining=0:00:40"
        )
        assert len(run.lines()) == 2


def test_the_rates_of_the_line_are_those_worked_out_by_hand(tmp_path):
    """Intervals of 32 and 16 samples/s: 0.6 * 16 + 0.4 * 32 = 22.4; overall 64 samples in 3 s."""
    with Run(tmp_path, 6, log_every=2) as run:
        for number, seconds in enumerate((0.5, 0.5, 1, 1), 1):
            run.step(number, seconds=seconds)

        assert "Rate=22.40 samples/sec, GlobalRate=21.33 samples/sec" in run.lines()[1]
        assert "TimeRemaining=0:00:01" in run.lines()[1]  # 32 samples at 22.4 a second


def test_the_eval_line_names_loss_rate_and_metrics(tmp_path):
    """Its rates are of evaluation, 100 samples in 4 s; the next train rate is not slowed by it."""
    with Run(tmp_path, 4) as run:
        run.step(1)
        run.evaluate(1, metrics={"accuracy": 0.25})
        run.step(2)

        assert run.lines()[1] == (
            "| Eval Device=CPU, Step=1, Loss=2.50000, Rate=25.00 samples/sec, GlobalRate=25.00 samples/sec, "
            "LoopTimeRemaining=0:00:00, TimeRemaining=0:00:02, accuracy=0.25000"
        )
        assert "Rate=32.00 samples/sec, GlobalRate=6.40 samples/sec" in run.lines()[2]


def test_the_last_step_has_a_line_whatever_the_interval(tmp_path):
    """The final loss is the line that people look for."""
    with Run(tmp_path, 5, log_every=100) as run:
        for number in range(1, 6):
            run.step(number)

        assert len(run.lines()) == 1
        assert "Step=5," in run.lines()[0]


def test_log_txt_repeats_the_console_with_the_time_of_day(tmp_path):
    """What scrolled away is in the folder; brackets are text, not markup."""
    with Run(tmp_path, 2) as run:
        run.reporter.note("layer [bold] 0\nand layer 1")
        run.reporter.starved(0.374, 3)
        run.reporter.checkpoint(1, run.folder.checkpoints / "step-1", 1.234)
        run.step(1)
        console = run.lines()

    logged = run.folder.log.read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in logged] == console
    assert console[:4] == [
        "| layer [bold] 0",
        "| and layer 1",
        "| Input is too slow: the systems waited for batches for 37 % of the time; "
        "3 input workers would keep up",
        "| Checkpoint Step=1, Path=checkpoints/step-1, Seconds=1.23",
    ]


def test_tensorboard_reads_back_every_scalar(tmp_path):
    """Values are single precision in TensorBoard's files; these are exact in it."""
    with Run(tmp_path, 2, log_every=2) as run:
        run.step(1, loss=4.0, logs={"lr": 0.5, "norm/layer0": 8.0}, metrics={"accuracy": 0.25})
        run.step(2, loss=torch.tensor(2.0), logs={"lr": 0.25})
        run.evaluate(2, loss=3.0, metrics={"accuracy": 0.75})

    assert events(run.folder) == {
        "train/loss": [(1, 4.0), (2, 2.0)],
        "train/lr": [(1, 0.5), (2, 0.25)],
        "norm/layer0": [(1, 8.0)],
        "train/accuracy": [(1, 0.25)],
        "train/rate": [(2, 32.0)],
        "train/global_rate": [(2, 32.0)],
        "eval/loss": [(2, 3.0)],
        "eval/accuracy": [(2, 0.75)],
        "eval/rate": [(2, 25.0)],
    }
    assert read_metrics(run.folder.metrics).train[1].loss == 2.0


def test_events_are_on_disk_before_the_reporter_closes(tmp_path):
    """TensorBoard beside a run shows the run as it is, and a killed run keeps its scalars."""
    with Run(tmp_path) as run:
        run.step(1, loss=4.0)

        assert events(run.folder)["train/loss"] == [(1, 4.0)]


def test_a_resumed_run_reports_no_step_twice(tmp_path):
    """Steps 3 and 4 came after the checkpoint that was resumed; the first run's values of them are gone."""
    with Run(tmp_path) as run:
        for number in range(1, 5):
            run.step(number, loss=float(number))
        run.evaluate(4)
    with Run(tmp_path, start_step=2) as run:
        run.step(3, loss=30.0)

    expected = [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert events(run.folder)["train/loss"] == expected
    assert [(r.step, r.loss) for r in read_metrics(run.folder.metrics).train] == expected
    assert read_metrics(run.folder.metrics).eval == ()
    assert len(run.folder.log.read_text().splitlines()) == 6  # the log is a history and keeps both


def test_a_resumed_run_counts_also_where_the_clock_was_set_back(tmp_path, monkeypatch):
    """TensorBoard reads event files by the time in their names; a resume read first would purge nothing."""
    with Run(tmp_path) as run:
        for number in (1, 2):
            run.step(number, loss=1.0)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    with Run(tmp_path, start_step=1) as run:
        run.step(2, loss=5.0)

    assert events(run.folder)["train/loss"] == [(1, 1.0), (2, 5.0)]


def test_a_run_done_over_replaces_the_earlier_one(tmp_path):
    """The same config in the same folder, from step 0."""
    with Run(tmp_path) as run:
        run.step(1, loss=1.0)
        run.step(2, loss=2.0)
    with Run(tmp_path) as run:
        run.step(1, loss=10.0)

    assert events(run.folder)["train/loss"] == [(1, 10.0)]
    assert [r.loss for r in read_metrics(run.folder.metrics).train] == [10.0]


def test_steps_done_again_after_a_recovery_replace_the_lost_ones(tmp_path):
    """A role died after step 3, and the run went back to the checkpoint of step 1, in one process."""
    with Run(tmp_path) as run:
        for number, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, 30.0), (4, 40.0)):
            run.step(number, loss=loss)

    expected = [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]
    assert events(run.folder)["train/loss"] == expected
    assert [(r.step, r.loss) for r in read_metrics(run.folder.metrics).train] == expected


def test_finish_writes_the_summary_and_the_loss_picture(tmp_path):
    """A finished run leaves its picture without being asked."""
    run = Run(tmp_path, 1)
    run.step(1)
    run.reporter.finish({"final loss": 1.5, "steps": 1})
    run.folder.close()

    assert run.lines()[-2:] == ["| final loss  1.5", "| steps       1"]
    assert run.folder.loss_picture.read_bytes().startswith(b"\x89PNG")
    run.reporter.close()  # once more is harmless


def test_time_before_start_stays_out_of_the_rates(tmp_path):
    """Compiling the plan takes longer than many steps."""
    with Run(tmp_path, 1) as run:
        run.clock.now += 1000
        run.reporter.start()
        run.step(1)

        assert "GlobalRate=32.00 samples/sec" in run.lines()[0]


def test_a_terminal_shows_a_bar_with_rate_loss_and_time_left(tmp_path):
    """Between two lines, the bar is all that moves."""
    terminal = io.StringIO()
    console = Console(
        file=terminal, force_terminal=True, width=120, color_system=None, _environ={"TERM": "xterm"}
    )
    with Run(tmp_path, 10, log_every=100, console=console) as run:
        for number in range(1, 6):
            run.step(number, loss=1.25)

    shown = terminal.getvalue()
    assert "5/10" in shown
    assert "loss 1.25000  32.00 samples/s  0:00:02 left" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor is given back


def test_a_pipe_gets_lines_without_control_characters(tmp_path):
    """A log file full of cursor movements cannot be read."""
    with Run(tmp_path, 3) as run:
        run.step(1)

    assert "\x1b" not in run.text.getvalue()


@pytest.mark.parametrize("name", ["log", "metrics"])
def test_a_full_disk_ends_the_run_with_the_file_and_the_advice(tmp_path, name):
    """/dev/full refuses every write as a full disk does; training on would lose what the user waits for."""
    folder = RunFolder(tmp_path)
    os.symlink("/dev/full", getattr(folder, name))

    with (
        Run(tmp_path) as run,
        pytest.raises(StorageError, match=f"{name}.*No space left.*make room and resume"),
    ):
        run.step(1)


def test_a_full_disk_under_tensorboard_ends_the_run(tmp_path, monkeypatch):
    """The event file has no name to link in advance, so its descriptor is turned to /dev/full."""
    with Run(tmp_path) as run:
        [file] = run.folder.tensorboard.iterdir()
        [fd] = [
            fd for fd in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{fd}") == str(file.resolve())
        ]  # fmt: skip
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, int(fd))
        os.close(full)

        with pytest.raises(StorageError, match=r"tensorboard.*No space left"):
            run.step(1)


def test_a_full_disk_under_the_loss_picture_is_not_hidden(tmp_path, monkeypatch):
    """The last checkpoint is on the same disk; the user must hear of it even when the run is over."""

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Run(tmp_path, 1) as run:
        run.step(1)
        monkeypatch.setattr(os, "fsync", full)

        with pytest.raises(StorageError, match=r"loss\.png: No space left"):
            run.reporter.finish({})


def test_other_failures_are_told_once_and_training_goes_on(tmp_path):
    """Nobody wants to lose a day of training to a metric that is not a number."""
    with Run(tmp_path, 3) as run:
        for number in (1, 2):
            run.step(number, metrics={"accuracy": "high"})
        run.step(3)
        told = [line for line in run.lines() if "training goes on without it" in line]

    assert len([line for line in told if "metrics.jsonl" in line]) == 1
    assert len([line for line in told if "TensorBoard" in line]) == 1
    assert "ValueError" in told[0]
    assert [r.step for r in read_metrics(run.folder.metrics).train] == [3]


def test_a_file_that_cannot_be_opened_does_not_stop_the_rest(tmp_path):
    """A folder lies where metrics.jsonl should be; log and TensorBoard still work."""
    RunFolder(tmp_path).metrics.mkdir(parents=True)

    with Run(tmp_path, 1) as run:
        run.step(1, loss=4.0)
        run.reporter.finish({})

    assert "metrics.jsonl could not be written (IsADirectoryError" in run.folder.log.read_text()
    assert events(run.folder)["train/loss"] == [(1, 4.0)]


def test_a_reader_of_the_console_may_leave(tmp_path):
    """`... | head -1` closes the pipe, which must not end the run."""
    code = (
        "import sys; from openwafer.train.report import *\n"
        f"folder = RunFolder.create({str(tmp_path)!r}, {{}})\n"
        "with Reporter(folder, 2000) as reporter:\n"
        "    for n in range(1, 2001): reporter.step(StepReport(step=n, loss=1.0, samples=1, seconds=1.0))\n"
        "sys.stderr.write('done')"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline().startswith(b"| Train")
    run.stdout.close()

    assert run.stderr is not None
    assert run.stderr.read().endswith(b"done")
    assert run.wait() == 0
    run.stderr.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl").train) == 2000


def test_an_error_in_training_is_not_replaced_by_one_of_closing(tmp_path):
    """What ended the run is what the user must see."""
    run = Run(tmp_path)

    with pytest.raises(ZeroDivisionError), run.reporter:
        _ = 1 / 0

    run.folder.close()
