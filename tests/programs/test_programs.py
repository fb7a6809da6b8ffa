"""Our own CSL programs, each on both architectures, each against NumPy.

A folder holds layout.csl, what it names, and check.py: `check(run, random)` runs the program and compares; PARAMS are the
layout's params, one dict for each run; ARCHITECTURES if not both, DIALECT if not 1.4; its docstring says what it shows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
from program_run import Run

from openwafer.csl.syntax import Dialect

HERE = Path(__file__).parent
FOLDERS = sorted(path.parent for path in HERE.glob("*/check.py"))


@dataclass(frozen=True)
class Case:
    folder: Path
    architecture: Literal["wse2", "wse3"]
    dialect: Dialect
    params: dict[str, int | str]
    check: Callable[[Run, np.random.Generator], None]

    def __str__(self) -> str:
        params = "".join(f"-{name}{value}" for name, value in self.params.items())
        return f"{self.folder.name}-{self.architecture}{params}"


def _module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"program_{folder.name}", folder / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases() -> list[Case]:
    cases = []
    for folder in FOLDERS:
        module: Any = _module(folder)
        for architecture in getattr(module, "ARCHITECTURES", ("wse2", "wse3")):
            for params in getattr(module, "PARAMS", ({},)):
                dialect = getattr(module, "DIALECT", "1.4")
                cases.append(Case(folder, architecture, dialect, params, module.check))
    return cases


@pytest.mark.parametrize("case", _cases(), ids=str)
def test_programs_compute_what_numpy_computes(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program's check compares with NumPy; its docstring says what it shows."""
    monkeypatch.chdir(tmp_path)
    layout = case.folder / "layout.csl"
    run = Run(layout, case.architecture, tmp_path, dialect=case.dialect, **case.params)
    try:
        case.check(run, np.random.default_rng(7))
    finally:
        run.stop()


def test_there_are_at_least_thirty_programs() -> None:
    """The suite is a promise of issue 3; a folder without check.py would be left out silently."""
    assert len(FOLDERS) >= 30
    assert {path.parent for path in HERE.glob("*/*.csl")} == set(FOLDERS)
