"""A machine for tests of the host: memory, commands and ports, and what functions do is Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openwafer.artifact._image import Export, Image, Port, Program, Symbol, Tile
from openwafer.host import SdkRuntime, write_artifacts

MEMORY = 1024
Y_ADDRESS, H_ADDRESS, POINTER_ADDRESS = 64, 256, 512


def image(width: int = 2, height: int = 2, **changes: Any) -> Image:
    """PEs with y: [8]f32, h: [8]f16, p: a pointer that can change, and the functions f() and g(i16, f32)."""
    program = Program(
        name="pe.csl",
        code=0,
        memory=b"",
        memory_bytes=MEMORY,
        symbols=(
            Symbol("y", Y_ADDRESS, 32, "[8]f32"),
            Symbol("h", H_ADDRESS, 16, "[8]f16"),
            Symbol("p_target", POINTER_ADDRESS, 2, "[*]u32"),
        ),
        variables={"y": Y_ADDRESS, "h": H_ADDRESS, "p": Y_ADDRESS},
        pointers={"p": POINTER_ADDRESS},
        functions={"f": 3, "g": 4},
    )
    fields: dict[str, Any] = {
        "architecture": "wse2",
        "fabric": (width + 7, height + 2),
        "offset": (4, 1),
        "rectangle": (width, height),
        "programs": (program,),
        "tiles": tuple(Tile(x, y, 0) for y in range(height) for x in range(width)),
        "exports": (
            Export("y", "variable", "[*]f32", True),
            Export("h", "variable", "[*]f16", True),
            Export("p", "variable", "[*]u32", True),
            Export("f", "function", "fn()void"),
            Export("g", "function", "fn(i16,f32)void", parameters=("i16", "f32")),
        ),
        "streams": {0: "in", 1: "out"},
        "params": {"size": "8"},
        "memcpy": True,
    }
    return Image(**{**fields, **changes})


@dataclass
class Outcome:
    idle: bool


class FakeMachine:
    """What the runtime needs of a machine. Commands run at the end of a `run`; `work` cycles later the PE is idle again."""

    def __init__(self, image: Image, timing: str = "sim", object_cache: Path | None = None) -> None:
        self.image = image
        self.cycle = 0
        self.failure = ""
        self.memory = {(t.x, t.y): bytearray(MEMORY) for t in image.tiles}
        self.blocked: set[tuple[int, int]] = set()
        self.queued: list[tuple[int, int, int, list[int]]] = []
        self.ran: list[tuple[int, int, int, list[int]]] = []
        self.functions: dict[int, Callable[[FakeMachine, int, int, list[int]], bool]] = {}
        self.sent: dict[tuple[Any, int, int], list[int]] = {}
        self.waiting: dict[tuple[Any, int, int], list[int]] = {}
        self.printed: list[tuple[int, int, int, str]] = []
        self.depth = 4
        self.stuck = ""
        self.calls = 0

    def run(self, cycles: int | None = None) -> Outcome:
        """Start what is queued; move words from ports into a buffer of `depth` words each, and echo them + 1 on color 1."""
        self.calls += 1
        self.cycle += cycles or 1
        moved = False
        for x, y, entry, arguments in list(self.queued):
            if (x, y) not in self.blocked:
                self.queued.remove((x, y, entry, arguments))
                self.ran.append((x, y, entry, arguments))
                moved = True
                if not self.functions.get(entry, lambda *_: True)(self, x, y, arguments):
                    self.blocked.add((x, y))
        for (port, x, y), words in self.sent.items():
            out = self.waiting.setdefault((1 if port == 0 else "out", x, y), [])
            while words and len(out) < self.depth:
                out.append(words.pop(0) + 1)
                moved = True
        return Outcome(idle=not moved)

    def skip_to(self, cycle: int) -> None:
        self.cycle = max(self.cycle, cycle)

    def read(self, x: int, y: int, address: int, size: int) -> bytes:
        return bytes(self.memory[x, y][address : address + size])

    def write(self, x: int, y: int, address: int, data: bytes) -> None:
        self.memory[x, y][address : address + len(data)] = data

    def read_block(self, x: int, y: int, w: int, h: int, address: int, count: int, kind: Any) -> Any:
        size = count * np.dtype(kind).itemsize
        rows = [[self.read(x + i, y + j, address, size) for i in range(w)] for j in range(h)]
        return np.array([[np.frombuffer(cell, kind) for cell in row] for row in rows])

    def write_block(self, x: int, y: int, address: int, data: Any) -> None:
        for j in range(data.shape[0]):
            for i in range(data.shape[1]):
                self.write(x + i, y + j, address, data[j, i].tobytes())

    def launch(self, x: int, y: int, entry: int, arguments: list[int]) -> None:
        self.queued.append((x, y, entry, arguments))

    def commands_idle(self, x: int, y: int, w: int, h: int) -> bool:
        busy = self.blocked | {(i, j) for i, j, _, _ in self.queued}
        return not any((x + i, y + j) in busy for j in range(h) for i in range(w))

    def send(self, port: Any, x: int, y: int, words: Any) -> None:
        self.sent.setdefault((port, x, y), []).extend(int(word) for word in words)

    def pending(self, port: Any, x: int, y: int) -> int:
        return len(self.sent.get((port, x, y), []))

    def receive(self, port: Any, x: int, y: int, count: int) -> Any:
        have = self.waiting.setdefault((port, x, y), [])
        taken, have[:count] = have[:count], []
        return np.array(taken, np.uint32)

    def prints(self) -> list[tuple[int, int, int, str]]:
        return self.printed

    def traces(self, x: int, y: int) -> list[tuple[str, Any]]:
        return [("times", self.cycle), ("trace", x + 10 * y)]

    def diagnose(self, *, unblock: bool = True) -> str:
        lines = [f"PE {place}: the command stream is blocked\n" for place in sorted(self.blocked) if unblock]
        return "".join(lines) + self.stuck


def running(folder: Path, compiled: Image | None = None, **options: Any) -> tuple[SdkRuntime, FakeMachine]:
    """A runtime that has been started, and its machine."""
    write_artifacts(compiled or image(), folder / "out")
    runtime = SdkRuntime(str(folder / "out"), machine=FakeMachine, **options)
    runtime.load()
    runtime.run()
    machine = runtime.device.machine
    assert isinstance(machine, FakeMachine)
    return runtime, machine


def layout_ports() -> tuple[Port, ...]:
    """A port in and one out of PE (0, 0)."""
    return (Port("in", "in", 0, 0, "WEST", 2), Port("out", "out", 0, 0, "EAST", 3))
