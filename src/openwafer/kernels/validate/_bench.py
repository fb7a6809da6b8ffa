"""Runs the programs of this package: compiled once for each architecture and params, then launched on new machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openwafer.artifact._image import Architecture, Image
from openwafer.base import FabricError
from openwafer.csl._compile import compile_program
from openwafer.fabric import Machine, Timing, TraceKind

_PROGRAMS = Path(__file__).parent / "programs"
_OFFSET = (4, 1)
_MARGIN = (7, 2)  # columns and rows of the fabric that are not the program's
_LARGEST = 64


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run recorded, asked for by place and kind."""

    machine: Machine
    records: NDArray[np.void]

    def cycles(self, kind: TraceKind, x: int, y: int = 0, number: int | None = None) -> list[int]:
        """Cycles of the records of a kind at a PE, in order; `number`: of this task, thread or color only."""
        found = self.records
        found = found[(found["kind"] == kind) & (found["x"] == x) & (found["y"] == y)]
        if number is not None:
            found = found[found["a"] == number]
        return [int(cycle) for cycle in found["cycle"]]


class Bench:
    """Programs that are compiled, and the timing table that they run on."""

    def __init__(self) -> None:
        self._images: dict[tuple[object, ...], Image] = {}

    def image(self, program: str, architecture: Architecture, **params: int) -> Image:
        """The program of a folder in `programs`, compiled for these params."""
        key = (program, architecture, *sorted(params.items()))
        if key not in self._images:
            self._images[key] = compile_program(
                _PROGRAMS / program / "layout.csl",
                params={name: str(value) for name, value in params.items()},
                architecture=architecture,
                fabric=(_LARGEST + _MARGIN[0], _LARGEST + _MARGIN[1]),
                offset=_OFFSET,
                memcpy=True,
            )
        return self._images[key]

    def run(
        self, image: Image, timing: Timing, argument: int | None = None, *, wavelets: bool = False
    ) -> Trace:
        """Launch `main` on every PE and run to the end. Raises FabricError if the program fails or stalls."""
        machine = Machine(image, timing)
        machine.run()
        machine.set_trace(True, wavelets)
        arguments = [] if argument is None else [argument]
        for tile in image.tiles:
            if tile.program is not None:
                entry = image.programs[tile.program].functions["main"]
                machine.launch(tile.x, tile.y, entry, arguments)
        outcome = machine.run()
        if outcome.failed or outcome.stalled:
            raise FabricError(
                f"a program of the validation did not end: {machine.failure or machine.diagnose()}"
            )
        return Trace(machine, machine.trace())

    def ticks(self, image: Image, timing: Timing, what: int) -> int:
        """Cycles between the two readings that a program on one PE makes around part `what`."""
        machine = self.run(image, timing, what).machine
        words: Any = machine.read_block(0, 0, 1, 1, image.programs[0].variables["times"], 6, np.uint16)
        start, end = (int(three[0]) + (int(three[1]) << 16) for three in words.reshape(2, 3))
        return end - start
