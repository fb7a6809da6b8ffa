"""What the programs of an Image take of a PE: memory, colors, queues, task ids, DSRs, FIFOs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import msgspec

from openwafer.artifact._image import Image, Program, Tile
from openwafer.machine import WSE2, WSE3

BANKS = 8
_BANK_WORD_BYTES = 2  # successive 16-bit words lie in successive banks
_DSR = re.compile(r"\bdsr (dest|src0|src1) (\d+)")


class SymbolUse(msgspec.Struct, frozen=True):
    """A variable in memory."""

    name: str
    type: str
    address: int
    bytes: int
    first_bank: int
    """The bank of its first 16-bit word; what reads two arrays at once wants them not 0 or 4 apart."""


class ColorUse(msgspec.Struct, frozen=True):
    """A color that tiles with the program route."""

    color: int
    tiles: int
    routes: tuple[str, ...]
    """The different routes of these tiles, as `WEST -> RAMP`; `, switches` if it has further positions."""


class TaskUse(msgspec.Struct, frozen=True):
    """A task id."""

    kind: str
    id: int
    name: str
    priority: str
    state: str


class QueueUse(msgspec.Struct, frozen=True):
    """A queue that the program initialises."""

    direction: str
    number: int
    color: int


class FifoUse(msgspec.Struct, frozen=True):
    """A FIFO in memory."""

    number: int
    address: int
    bytes: int


class ProgramReport(msgspec.Struct, frozen=True, kw_only=True):
    """What tiles that run one program take of their PE."""

    name: str
    tiles: int
    first_tile: tuple[int, int]
    memory_bytes: int
    """Of the PE."""
    symbol_bytes: int
    """What variables take; between them, gaps for alignment."""
    free_bytes: int
    """Behind the last variable; on hardware the code takes part of it, which a simulator does not know."""
    bank_bytes: tuple[int, ...]
    """Bytes of variables in each bank."""
    frame_bytes: int
    """Of the simulator, not of the PE's memory: where compiled code keeps what outlasts a wait."""
    symbols: tuple[SymbolUse, ...]
    colors: tuple[ColorUse, ...]
    queues: tuple[QueueUse, ...]
    tasks: tuple[TaskUse, ...]
    dsrs: dict[str, tuple[int, ...]]
    """The numbers in use of the files dest, src0 and src1."""
    fifos: tuple[FifoUse, ...]
    functions: tuple[str, ...]
    """What the host can launch."""


class ImageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a compiled program takes."""

    architecture: str
    fabric: tuple[int, int]
    offset: tuple[int, int]
    rectangle: tuple[int, int]
    tiles_without_program: int
    """Tiles that only route."""
    programs: tuple[ProgramReport, ...]
    """Programs that differ at most in constants, as those that know their coordinates, are one."""


def report_image(image: Image) -> ImageReport:
    """Count what every distinct program of `image` takes of its PEs."""
    alike: dict[tuple[object, ...], list[Tile]] = defaultdict(list)
    for tile in image.tiles:
        if tile.program is not None:
            program = image.programs[tile.program]
            alike[program.name, program.code, program.symbols, program.tasks, program.queues].append(tile)
    return ImageReport(
        architecture=image.architecture,
        fabric=image.fabric,
        offset=image.offset,
        rectangle=image.rectangle,
        tiles_without_program=sum(tile.program is None for tile in image.tiles),
        programs=tuple(_program(image, tiles) for tiles in alike.values()),
    )


def _program(image: Image, tiles: list[Tile]) -> ProgramReport:
    number = tiles[0].program
    assert number is not None
    program = image.programs[number]
    code = image.codes[program.code]
    banks: Counter[int] = Counter()
    for symbol in program.symbols:
        for address in range(symbol.address, symbol.address + symbol.bytes):
            banks[address // _BANK_WORD_BYTES % BANKS] += 1
    memory = int({"wse2": WSE2, "wse3": WSE3}[image.architecture].pe.sram_bytes)
    end = max((symbol.address + symbol.bytes for symbol in program.symbols), default=0)
    return ProgramReport(
        name=program.name,
        tiles=len(tiles),
        first_tile=(tiles[0].x, tiles[0].y),
        memory_bytes=memory,
        symbol_bytes=sum(symbol.bytes for symbol in program.symbols),
        free_bytes=memory - end,
        bank_bytes=tuple(banks[bank] for bank in range(BANKS)),
        frame_bytes=code.frame_bytes,
        symbols=tuple(
            SymbolUse(one.name, one.type, one.address, one.bytes, one.address // _BANK_WORD_BYTES % BANKS)
            for one in sorted(program.symbols, key=lambda one: one.address)
        ),
        colors=_colors(tiles),
        queues=tuple(
            QueueUse(one.direction, one.number, one.color)
            for one in sorted(program.queues, key=lambda one: (one.direction, one.number))
        ),
        tasks=tuple(
            TaskUse(one.kind, one.id, one.name, one.priority, _state(one.active, one.blocked))
            for one in sorted(program.tasks, key=lambda one: (one.kind, one.id))
        ),
        dsrs=_dsrs(program, code.ir),
        fifos=tuple(FifoUse(one.number, one.address, one.bytes) for one in program.fifos),
        functions=tuple(sorted(program.functions)),
    )


def _state(active: bool, blocked: bool) -> str:
    return ", ".join(word for word, holds in (("active", active), ("blocked", blocked)) if holds)


def _colors(tiles: list[Tile]) -> tuple[ColorUse, ...]:
    counts: Counter[int] = Counter()
    routes: dict[int, set[str]] = defaultdict(set)
    for tile in tiles:
        for color, route in tile.routes.items():
            counts[color] += 1
            text = f"{' '.join(route.rx) or 'nothing'} -> {' '.join(route.tx) or 'nothing'}"
            routes[color].add(f"{text}, switches" if route.positions else text)
    return tuple(ColorUse(color, counts[color], tuple(sorted(routes[color]))) for color in sorted(counts))


def _dsrs(program: Program, ir: str) -> dict[str, tuple[int, ...]]:
    numbers: dict[str, set[int]] = {"dest": set(), "src0": set(), "src1": set()}
    for file, number in _DSR.findall(ir):
        numbers[file].add(int(number))
    for preload in program.preloads:
        numbers[preload.file].add(preload.number)
    return {file: tuple(sorted(found)) for file, found in numbers.items()}
