"""What the appliance costs a training job: `wafer submit` beside the same `wafer train`.

    python benchmarks/appliance_jobs.py --json appliance_jobs.json

Both run recipes/gpt.py for --steps steps without evaluation, in turn, --rounds times; the jobs on a cluster of one system that is
up all the while, with a client that follows the log and the events. A rate is samples by the median time of a step, after
the first quarter of the steps. first step: seconds from when the command was started, as by the return key, until the first step
is in the run's metrics, the median of the rounds; `taken`: the same from when the appliance has taken the job. A round before
the others, with nothing in the caches of the appliance and of the command, shows what they save; it does not count in the
other columns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from _common import ROOT, describe_machine, entry, finish, parser_of, print_table, workspace

from openwafer.base import EngineError, InputError
from openwafer.train.report import read_metrics

RECIPE = ROOT / "recipes" / "gpt.py"
WAFER = (sys.executable, "-m", "openwafer.cli")
START_S = 300.0


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--size", default="small", help="of the recipe")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.steps < 4 or options.rounds < 1:
        raise InputError("give --steps at least 4 and --rounds at least 1")
    print(describe_machine(), flush=True)
    words = [str(RECIPE), f"size={options.size}", f"steps={options.steps}"]
    rounds = []
    with workspace(options.folder) as folder:
        environment = {
            **os.environ,
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        state = folder / "state"
        up = [*WAFER, "cluster", "up", "--systems", "1", "--folder", str(state), "--port", "0"]
        node = subprocess.Popen(up, env=environment, stdout=subprocess.DEVNULL)
        try:
            _until(lambda: (folder / "config").exists() and any((folder / "config").rglob("*.json")), node)
            for number in range(options.rounds + 1):
                rounds.append(
                    {
                        "train": _train(words, folder / f"train-{number}", environment),
                        "job": _job(words, state, environment),
                    }
                )
                print(f"round {number} of {options.rounds}", flush=True)
        finally:
            node.terminate()
            node.wait()
    uncached, cached = rounds[0], rounds[1:]
    rows = []
    for name in ("train", "job"):
        rate = statistics.median(each[name]["samples_per_s"] for each in cached)
        ratio = statistics.median(
            each[name]["samples_per_s"] / each["train"]["samples_per_s"] for each in cached
        )
        first, taken = (
            statistics.median(each[name][what] for each in cached) for what in ("first_step_s", "taken_s")
        )
        rows.append(
            [f"wafer {'submit' if name == 'job' else name}"]
            + [f"{seconds:.1f}" for seconds in (first, taken, uncached[name]["first_step_s"])]
            + [f"{rate:.2f}", f"{ratio:.3f}"]
        )
    print_table(["", "first step, s", "taken, s", "nothing cached, s", "samples/s", "to train"], rows)
    finish(options, {"uncached": uncached, "rounds": cached})


def _train(words: list[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    began = time.perf_counter()
    run = subprocess.Popen(
        [*WAFER, "train", *words, "--folder", str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return _followed(folder / "metrics.jsonl", began, began, run)
    finally:
        run.terminate()
        run.wait()


def _job(words: list[str], state: Path, environment: dict[str, str]) -> dict[str, float]:
    before = set((state / "jobs").glob("*"))
    began = time.perf_counter()
    submit = subprocess.Popen(
        [*WAFER, "submit", *words, "--follow"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: set((state / "jobs").glob("*")) - before != set(), submit)
        (made,) = set((state / "jobs").glob("*")) - before
        return _followed(made / "run" / "metrics.jsonl", began, time.perf_counter(), submit)
    finally:
        submit.terminate()
        submit.wait()


def _followed(metrics: Path, began: float, taken: float, process: subprocess.Popen[Any]) -> dict[str, float]:
    """Wait for the first step, then for the end; the figures of the run."""
    _until(lambda: metrics.exists() and b"\n" in metrics.read_bytes(), process)
    done = time.perf_counter()
    if process.wait() != 0:
        raise EngineError(
            f"the run of {metrics.parent} ended with status {process.returncode}; see its log.txt"
        )
    steps = read_metrics(metrics).train
    later = steps[len(steps) // 4 :]
    rate = later[0].samples / statistics.median(step.seconds for step in later)
    return {"samples_per_s": rate, "first_step_s": done - began, "taken_s": done - taken}


def _until(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + START_S
    while True:
        with suppress(OSError):
            if condition():
                return
        if process.poll() is not None:
            raise EngineError(f"a process ended with status {process.returncode} before it was ready")
        if time.monotonic() > end:
            raise EngineError(f"nothing began within {START_S:.0f} s")
        time.sleep(0.01)


if __name__ == "__main__":
    entry(main, {})
