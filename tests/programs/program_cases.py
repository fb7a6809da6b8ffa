"""Our own CSL programs with their params: each is compiled once, whoever runs it.

A folder holds layout.csl, what it names, and check.py: `check(run, random)` runs the program and compares; PARAMS are the
layout's params, one dict for each run; ARCHITECTURES if not both, DIALECT if not 1.4; its docstring says what it shows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from program_run import MARGIN, OFFSET, Run

from openwafer.artifact._image import Image
from openwafer.csl import compile_program
from openwafer.csl.syntax import Dialect

HERE = Path(__file__).parent
FOLDERS = sorted(path.parent for path in HERE.glob("*/check.py"))


@dataclass(frozen=True)
class Case:
    """One program with params, for one architecture."""

    folder: Path
    architecture: Literal["wse2", "wse3"]
    dialect: Dialect = field(repr=False)
    params: dict[str, int | str]
    check: Callable[[Run, np.random.Generator], None] = field(repr=False)

    def __str__(self) -> str:
        params = "".join(f"-{name}{value}" for name, value in self.params.items())
        return f"{self.folder.name}-{self.architecture}{params}"

    @cached_property
    def image(self) -> Image:
        """The compiled program."""
        return compile_program(
            self.folder / "layout.csl",
            params={name: str(value) for name, value in self.params.items()},
            architecture=self.architecture,
            fabric=(16 + MARGIN[0], 16 + MARGIN[1]),
            offset=OFFSET,
            memcpy=True,
            dialect=self.dialect,
        )

    def run(self, folder: Path, **options: Any) -> Run:
        """Run the program in `folder` and compare with NumPy; the run, stopped."""
        run = Run(self.image, folder, self.params, **options)
        try:
            self.check(run, np.random.default_rng(7))
        finally:
            run.stop()
        return run


@cache
def cases() -> list[Case]:
    """All of them."""
    found = []
    for folder in FOLDERS:
        module: Any = _module(folder)
        for architecture in getattr(module, "ARCHITECTURES", ("wse2", "wse3")):
            for params in getattr(module, "PARAMS", ({},)):
                dialect = getattr(module, "DIALECT", "1.4")
                found.append(Case(folder, architecture, dialect, params, module.check))
    return found


def _module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"program_{folder.name}", folder / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
