"""Where things are in a compiled program: exports, addresses by PE, entries by PE."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from openwafer.artifact._image import Export, Image, Program, Symbol
from openwafer.base import InputError

NOWHERE = -1
THROUGH_POINTER = 1 << 16  # no address of a PE has this bit


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of PEs, in places of the program's rectangle."""

    x: int
    y: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    def __str__(self) -> str:
        if self.width == self.height == 1:
            return f"PE ({self.x}, {self.y})"
        return f"PEs ({self.x}, {self.y}) to ({self.x + self.width - 1}, {self.y + self.height - 1})"


class CompiledProgram:
    """An Image with what a host asks of it."""

    def __init__(self, image: Image) -> None:
        self.image = image
        width, height = image.rectangle
        self.rectangle = Region(0, 0, width, height)

    @cached_property
    def program_at(self) -> NDArray[np.int32]:
        """The program of each PE by [y, x]; NOWHERE where there is none."""
        grid = np.full(self.rectangle.shape, NOWHERE, np.int32)
        for tile in self.image.tiles:
            if tile.program is not None:
                grid[tile.y, tile.x] = tile.program
        return grid

    def region(self, x: int, y: int, width: int, height: int, what: str) -> Region:
        """The rectangle that a host named. Raises InputError if it is empty or leaves the program's rectangle."""
        inside = self.rectangle
        if width < 1 or height < 1:
            raise InputError(f"{what}: the region is {width} x {height} PEs; it needs at least one")
        if x < 0 or y < 0 or x + width > inside.width or y + height > inside.height:
            raise InputError(
                f"{what}: the region begins at ({x}, {y}) and is {width} x {height} PEs, and the program's rectangle is "
                f"{inside.width} x {inside.height}"
            )
        return Region(x, y, width, height)

    def place_of(self, fabric_x: int, fabric_y: int) -> tuple[int, int]:
        """The place in the rectangle of a place of the fabric. Raises InputError if it lies outside."""
        x, y = fabric_x - self.image.offset[0], fabric_y - self.image.offset[1]
        if not (0 <= x < self.rectangle.width and 0 <= y < self.rectangle.height):
            left, top = self.image.offset
            raise InputError(
                f"PE ({fabric_x}, {fabric_y}) of the fabric is not the program's: its rectangle begins at ({left}, {top}) and is "
                f"{self.rectangle.width} x {self.rectangle.height}"
            )
        return x, y

    def export(self, name: str, kind: str | None = None) -> tuple[int, Export]:
        """The id and the export of a name. Raises InputError with the nearest names if there is none such."""
        for number, export in enumerate(self.image.exports):
            if export.name == name:
                if kind is not None and export.kind != kind:
                    raise InputError(
                        f"{name} is exported as a {export.kind} ({export.type}), not as a {kind}"
                    )
                return number, export
        names = [export.name for export in self.image.exports if kind in (None, export.kind)]
        raise InputError(f"no {kind or 'name'} {name!r} is exported{_nearest(name, names)}")

    def variable(self, number: int, what: str) -> Export:
        """The variable of an id that get_id gave. Raises InputError if it is none."""
        if not 0 <= number < len(self.image.exports):
            raise InputError(
                f"{what}: {number} is no id of an exported variable; get_id(name) gives one, and streaming=True takes a color"
            )
        export = self.image.exports[number]
        if export.kind != "variable":
            raise InputError(f"{what}: {export.name} is a function; launch it")
        return export

    def addresses(self, name: str, region: Region, what: str) -> NDArray[np.int32]:
        """Where an exported variable is on each PE, by [y, x].

        Where the exported pointer can change it is the address of the pointer itself plus THROUGH_POINTER.
        Raises InputError if a PE of the region does not export the name.
        """
        rows, columns = slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
        table = [
            program.pointers[name] + THROUGH_POINTER
            if name in program.pointers
            else program.variables.get(name, NOWHERE)
            for program in self.image.programs
        ]
        found = np.array([*table, NOWHERE], np.int32)[self.program_at[rows, columns]]
        if (found == NOWHERE).any():
            row, column = np.argwhere(found == NOWHERE)[0]
            raise InputError(
                f"{what}: PE ({region.x + column}, {region.y + row}) does not export {name!r}; "
                f'add @export_symbol(pointer, "{name}") to its program or leave that PE out of the region'
            )
        return found

    def entries(self, name: str) -> Iterator[tuple[int, int, int]]:
        """x, y and entry of each PE that exports the function."""
        table = [program.functions.get(name, NOWHERE) for program in self.image.programs]
        for tile in self.image.tiles:
            if tile.program is not None and table[tile.program] != NOWHERE:
                yield tile.x, tile.y, table[tile.program]

    def program_of(self, x: int, y: int) -> Program:
        """The program of a PE. Raises InputError if it has none."""
        number = int(self.program_at[y, x])
        if number == NOWHERE:
            raise InputError(f"PE ({x}, {y}) runs no program")
        return self.image.programs[number]

    def symbol(self, x: int, y: int, name: str) -> Symbol:
        """A variable of a PE by its name or by the name that it is exported under.

        Raises InputError with the nearest names if the PE has none such.
        """
        program = self.program_of(x, y)
        for symbol in program.symbols:
            if symbol.name == name:
                return symbol
        if name in program.variables:
            address = program.variables[name]
            for symbol in program.symbols:
                if symbol.address <= address < symbol.address + max(symbol.bytes, 1):
                    return symbol
        names = [symbol.name for symbol in program.symbols] + list(program.variables)
        raise InputError(f"PE ({x}, {y}) has no variable {name!r}{_nearest(name, names)}")


def same_value_regions(values: NDArray[np.int32], region: Region) -> Iterator[tuple[Region, int]]:
    """Cut a region into rectangles of PEs that have the same value; values by [y, x]."""
    if values.size and (values == values[0, 0]).all():
        yield region, int(values[0, 0])
        return
    open_runs: dict[tuple[int, int, int], int] = {}  # first column, columns, value -> first row
    for row in range(region.height + 1):
        runs = _runs(values[row]) if row < region.height else set()
        for run in [run for run in open_runs if run not in runs]:
            column, count, value = run
            first = open_runs.pop(run)
            yield Region(region.x + column, region.y + first, count, row - first), value
        for run in runs:
            open_runs.setdefault(run, row)


def _runs(row: NDArray[np.int32]) -> set[tuple[int, int, int]]:
    starts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
    ends = np.append(starts[1:], row.size)
    return {(int(start), int(end - start), int(row[start])) for start, end in zip(starts, ends, strict=True)}


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are {', '.join(sorted(set(names))[:12])}" if names else "; the program exports nothing"
