"""A program of one PE, whose colors come back to itself, on a simulated machine: what its variables hold in the end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

from openwafer.artifact._image import Image
from openwafer.csl._compile import compile_program
from openwafer.csl.interpret import Executor
from openwafer.csl.syntax import Dialect
from openwafer.fabric import Machine
from openwafer.fabric._native import runtime_addresses

_CODES = {"i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q"}
_CODES |= {"f16": "e", "f32": "f", "bool": "?"}
LAYOUT = """
layout {
  @set_rectangle(1, 1);
  @set_tile_code(0, 0, "pe.csl");
}
"""
START = """
const start_id = @get_local_task_id(8);
comptime { @bind_local_task(start, start_id); @activate(start_id); }
"""
"""For a program whose task `start` begins."""


def loop(color: int, more: str = "") -> str:
    """A color that leaves by the ramp and comes back by it."""
    routes = f".routes = .{{ .rx = .{{ RAMP }}, .tx = .{{ RAMP }} }}{more}"
    return f"@set_local_color_config(@get_color({color}), .{{ {routes} }});\n"


def build(
    program: str,
    folder: Path,
    architecture: Literal["wse2", "wse3"] = "wse3",
    dialect: Dialect = "1.4",
    layout: str = LAYOUT,
) -> Image:
    """The image of the program. Raises DiagnosticError."""
    (folder / "pe.csl").write_text(program, "utf-8")
    (folder / "layout.csl").write_text(layout, "utf-8")
    return compile_program(
        folder / "layout.csl",
        params={},
        architecture=architecture,
        fabric=(1, 1),
        offset=(0, 0),
        memcpy=False,
        dialect=dialect,
    )


class Ran:
    """Values of the variables after the run, native and interpreted alike; `failure` is the machine's message."""

    def __init__(self, image: Image) -> None:
        memories = []
        for executor in (None, Executor(runtime_addresses())):
            machine = Machine(image, executor=executor)
            machine.run(1_000_000)
            self.failure = machine.failure
            memories.append(machine.read(0, 0, 0, image.programs[0].memory_bytes))
        assert memories[0] == memories[1], "native and interpreted code differ"
        self._memory, self._program = memories[0], image.programs[0]

    def __getitem__(self, name: str) -> list[float]:
        symbol = next(one for one in self._program.symbols if one.name == name)
        code = _CODES[symbol.type.rpartition("]")[2]]
        count = symbol.bytes // struct.calcsize(code)
        return list(struct.unpack_from(f"<{count}{code}", self._memory, symbol.address))


def run(
    program: str,
    folder: Path,
    architecture: Literal["wse2", "wse3"] = "wse3",
    dialect: Dialect = "1.4",
    layout: str = LAYOUT,
) -> Ran:
    """Compiles and runs until nothing happens any more."""
    return Ran(build(program, folder, architecture, dialect, layout))
