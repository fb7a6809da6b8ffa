"""What the tests of the benchmarks share: a script run as a user runs it, its workers in this process."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import runpy
import signal
import statistics
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from openwafer.train.report import Timeline, _reporter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if not path.name.startswith("_"))


@dataclass(frozen=True)
class Ran:
    """What a script left: its `--json` figures, and the rows of its table by the names of the columns."""

    figures: dict[str, Any]
    rows: list[dict[str, str]]

    def row(self, name: str) -> dict[str, str]:
        """The row whose first cell is `name`."""
        return next(row for row in self.rows if next(iter(row.values())) == name)


class Bench:
    """Runs scripts under their own command lines, in this process.

    A process for every contestant costs seconds of imports. What it would run, the script with `--worker`, runs here
    instead: the same options and figures, with one thread of arithmetic, and roles as threads. Only the workers that
    `apart` names are processes.
    """

    _warm = False
    """Whether a script ran to its end: this process is then as warm as `warm_up` makes one."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
    ) -> None:
        import _common
        import _contestants

        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.folder, self._json = place / "work", place / "figures.json"
        self.folder.mkdir()
        self._apart: Collection[str] = ()
        self._in_a_process = _common.run_worker
        monkeypatch.setattr(_common, "run_worker", self._run_worker)
        if Bench._warm:
            monkeypatch.setattr(_contestants, "warm_up", lambda settings, folder: None)
        # Pictures of runs are tested elsewhere.
        monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
        monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)

    def __call__(self, script: str, *arguments: str, apart: Collection[str] = ()) -> Ran:
        """Run a script to its end, with `--json` and, where it has one, `--folder`, which it must leave empty."""
        self._apart = apart
        folder = (
            () if script in ("matmul", "fabric_network", "serve_kernels") else ("--folder", str(self.folder))
        )
        self.main(script, *arguments, *folder, "--json", str(self._json))
        Bench._warm = True
        rows = table(self._capsys.readouterr().out)
        assert not list(self.folder.iterdir())
        return Ran(json.loads(self._json.read_text()), rows)

    def main(self, script: str, *arguments: str) -> None:
        """Run a script; raises SystemExit as it does."""
        self._monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")

    def _run_worker(self, script: str, name: str, settings: dict[str, Any], **options: Any) -> dict[str, Any]:
        if name in self._apart:
            return self._in_a_process(script, name, settings, **options)
        from _worker import RESULT

        settings = {**settings, "threads": 1}
        if "cluster" in settings:
            settings["cluster"] = {**settings["cluster"], "processes": False}
        printed = io.StringIO()
        with self._monkeypatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, "argv", [str(script), "--worker", name, json.dumps(settings)])
            runpy.run_path(str(script), run_name="__main__")
        result = next(line for line in printed.getvalue().splitlines() if line.startswith(RESULT))
        return json.loads(result.removeprefix(RESULT))


@contextlib.contextmanager
def left_as_it_was() -> Iterator[None]:
    """Give back what belongs to the process and scripts take as if it were theirs: threads, a signal's handler, and the
    name of a recipe that they import, under which no recipe is loaded any more.
    """
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    modules = set(sys.modules)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, handler)
        for recipe in (BENCHMARKS.parent / "recipes").glob("*.py"):
            if recipe.stem not in modules:
                sys.modules.pop(recipe.stem, None)


def table(output: str) -> list[dict[str, str]]:
    """The rows of the first table in Markdown of an output. Fails if it has none, or if a row lacks a cell."""
    from_first = itertools.dropwhile(lambda line: line[:2] != "| ", output.splitlines())
    lines = itertools.takewhile(lambda line: line[:2] == "| ", from_first)
    header, rule, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert all(set(cell) <= {"-", ":"} for cell in rule)
    assert len(set(header)) == len(header), "a column hides another"
    return [dict(zip(header, row, strict=True)) for row in rows]


def median_s(figures: dict[str, Any], skipped: int = 1) -> float:
    """Seconds of a step, as every script means it: the median without the first steps."""
    return statistics.median(figures["times"][skipped:])


def check_steps(figures: dict[str, Any], steps: int, clocks: Sequence[str] = ("times", "cpu")) -> None:
    """Every step has a finite loss and a time, and the run a peak of memory."""
    assert len(figures["losses"]) == steps
    assert all(math.isfinite(loss) for loss in figures["losses"])
    for clock in clocks:
        assert len(figures[clock]) == steps
        assert all(seconds > 0 for seconds in figures[clock])
    assert figures["peak"] > 0


def mib(nbytes: int) -> str:
    """How tables show bytes in a column of MiB."""
    return f"{nbytes / 2**20:.0f}"
