"""Our own CSL programs, each on both architectures: against NumPy, interpreted, and on a machine in legal disorder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from program_cases import FOLDERS, HERE, Case, cases

from openwafer.csl.interpret import Executor
from openwafer.fabric import Machine
from openwafer.fabric._native import runtime_addresses


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes its sim.log where it is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_programs_compute_what_numpy_computes_natively_and_interpreted(case: Case, tmp_path: Path) -> None:
    """Each check compares with NumPy; the interpreter leaves the same bits everywhere, in the same cycles."""
    native = case.run(tmp_path).left()

    interpreted = case.run(tmp_path, machine=partial(Machine, executor=Executor(runtime_addresses()))).left()

    assert interpreted == native


@pytest.mark.parametrize("case", cases(), ids=str)
def test_disorder_that_the_machine_allows_changes_no_answer(case: Case, tmp_path: Path) -> None:
    """Latency, arbitration and the order of tasks and microthreads are promised to nobody: a change would be a race."""
    for seed in range(1, 4):
        case.run(tmp_path, machine=partial(Machine, jitter=seed))


def test_there_are_at_least_thirty_programs() -> None:
    """The suite is a promise of issue 3; a folder without check.py would be left out silently."""
    assert len(FOLDERS) >= 30
    assert {path.parent for path in HERE.glob("*/*.csl")} == set(FOLDERS)
