"""A trace with what it is about, and its file.

The file: `OWTRACE1`; the length of a head, 4 bytes, little-endian; the head, msgpack of `TraceFacts`; then blocks to the end.
A block is its number of records, then for each field of TRACE_RECORD, in order, a length and that many bytes of zlib: the
column's values, those of `cycle` as differences (8 bytes each, from 0 in each block). Lengths have 4 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openwafer.artifact._image import Image
from openwafer.base import InputError, StorageError
from openwafer.fabric._trace import TRACE_RECORD

_MAGIC = b"OWTRACE1"
_BLOCK = 1 << 20
_NO_PROGRAM = 0xFFFF


class ProgramFacts(msgspec.Struct, frozen=True):
    """What a trace needs of a program to tell names."""

    name: str
    entries: tuple[str, ...]
    """The name of what each entry runs: a task, or a function that the host launches."""
    places: tuple[int, ...]
    """Where each entry is declared, as an index of `locations`; 0 or missing: unknown."""
    locations: tuple[tuple[str, int, int], ...]


class TraceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace is about."""

    architecture: str
    timing: str
    fabric: tuple[int, int]
    offset: tuple[int, int]
    rectangle: tuple[int, int]
    cycles: int
    """The machine's cycle when the trace was taken."""
    dropped: int
    """Records that were not kept, because the trace had reached its limit."""
    programs: tuple[ProgramFacts, ...]
    placed: bytes
    """The program of each place of the rectangle, row by row, as 16-bit numbers; 0xffff: none."""

    @classmethod
    def of(cls, image: Image, timing: str, cycles: int, dropped: int) -> TraceFacts:
        """The facts of a machine that runs `image`."""
        width, height = image.rectangle
        placed = np.full((height, width), _NO_PROGRAM, "<u2")
        for tile in image.tiles:
            if tile.program is not None:
                placed[tile.y, tile.x] = tile.program
        programs = []
        for program in image.programs:
            names = list(image.codes[program.code].entries)
            for name, entry in program.functions.items():
                names[entry] = name
            for task in program.tasks:
                if task.entry is not None and task.name:
                    names[task.entry] = task.name
            places = image.codes[program.code].places
            programs.append(ProgramFacts(program.name, tuple(names), places, program.locations))
        return cls(
            architecture=image.architecture,
            timing=timing,
            fabric=image.fabric,
            offset=image.offset,
            rectangle=image.rectangle,
            cycles=cycles,
            dropped=dropped,
            programs=tuple(programs),
            placed=placed.tobytes(),
        )


@dataclass(frozen=True)
class Trace:
    """Records by cycle, and what they are about."""

    facts: TraceFacts
    records: NDArray[Any]

    @cached_property
    def program_at(self) -> NDArray[np.int64]:
        """The program of each place of the rectangle by [y, x]; -1 where there is none."""
        width, height = self.facts.rectangle
        numbers = np.frombuffer(self.facts.placed, "<u2").reshape(height, width).astype(np.int64)
        return np.where(numbers == _NO_PROGRAM, -1, numbers)

    @property
    def cycles(self) -> int:
        """The first cycle that is behind everything in the trace. Code runs ahead of the machine, so records may be too."""
        last = int(self.records["cycle"][-1]) if self.records.size else 0
        return max(self.facts.cycles, last, 1)


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace to a file that `load_trace` reads. Raises StorageError if that is not possible."""
    head = msgspec.msgpack.encode(trace.facts)
    try:
        with path.open("wb") as file:
            file.write(_MAGIC + struct.pack("<I", len(head)) + head)
            for first in range(0, trace.records.size, _BLOCK):
                block = trace.records[first : first + _BLOCK]
                file.write(struct.pack("<I", block.size))
                for name in TRACE_RECORD.names or ():
                    column = np.ascontiguousarray(block[name])
                    if name == "cycle":
                        column = np.diff(column, prepend=np.uint64(0))
                    packed = zlib.compress(column.tobytes(), 1)
                    file.write(struct.pack("<I", len(packed)) + packed)
    except OSError as error:
        raise StorageError(
            f"the trace {path} cannot be written: {error.strerror}; name another file"
        ) from error


def load_trace(path: Path) -> Trace:
    """The trace that `write_trace` wrote.

    Raises InputError if the file cannot be read, is no trace, or ends too early.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; `wafer csl run --trace` writes one"
        ) from error
    if not data.startswith(_MAGIC):
        raise InputError(
            f"{path} is no trace of a fabric; name a file that `wafer csl run --trace FILE SCRIPT` wrote"
        )
    try:
        (size,) = struct.unpack_from("<I", data, len(_MAGIC))
        begin = len(_MAGIC) + 4
        facts = msgspec.msgpack.decode(data[begin : begin + size], type=TraceFacts)
        blocks = list(_blocks(memoryview(data)[begin + size :]))
    except msgspec.ValidationError as error:
        raise InputError(
            f"{path} was written by another version of openwafer ({error}); run the program again to trace it"
        ) from error
    except (struct.error, zlib.error, ValueError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); run the program again to trace it") from error
    records = np.concatenate(blocks) if blocks else np.zeros(0, TRACE_RECORD)
    return Trace(facts, records)


def _blocks(data: memoryview) -> Iterator[NDArray[Any]]:
    at = 0
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        at += 4
        block = np.zeros(count, TRACE_RECORD)
        for name in TRACE_RECORD.names or ():
            (size,) = struct.unpack_from("<I", data, at)
            column = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + size]), TRACE_RECORD[name])
            block[name] = np.cumsum(column) if name == "cycle" else column
            at += 4 + size
        yield block
