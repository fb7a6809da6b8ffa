"""The memory of a stopped program, and what its PEs recorded: what debugging reads afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from openwafer.artifact._image import Image
from openwafer.base import InputError, StorageError
from openwafer.host._device import Device
from openwafer.host._program import CompiledProgram

Trace: TypeAlias = list[tuple[str, int | float | str | bool]]


class _File(msgspec.Struct, frozen=True):
    image: Image
    memory: dict[int, bytes]
    traces: dict[int, Trace]
    """Both by y * width + x of the rectangle."""


class _Saved:
    """The memories of a core file."""

    def __init__(self, file: _File) -> None:
        self._file = file

    def read(self, x: int, y: int, address: int, size: int) -> bytes:
        memory = self._file.memory.get(y * self._file.image.rectangle[0] + x, b"")
        return memory[address : address + size].ljust(size, b"\0")

    def traces(self, x: int, y: int) -> Trace:
        return self._file.traces.get(y * self._file.image.rectangle[0] + x, [])


class Core:
    """Memory and traces of every PE, on the stopped machine itself or from a file."""

    def __init__(self, program: CompiledProgram, source: Device | _Saved) -> None:
        self._program = program
        self._source = source

    @classmethod
    def load(cls, path: Path) -> Core:
        """A core that `write` wrote. Raises InputError if it cannot be read or is none."""
        try:
            file = msgspec.msgpack.decode(path.read_bytes(), type=_File)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; dump_core writes a core") from error
        except msgspec.DecodeError as error:
            raise InputError(f"{path} is no core ({error}); dump_core writes one") from error
        return cls(CompiledProgram(file.image), _Saved(file))

    def write(self, path: Path) -> None:
        """Write to a file. Raises StorageError if that is not possible."""
        image = self._program.image
        memory: dict[int, bytes] = {}
        traces: dict[int, Trace] = {}
        for tile in image.tiles:
            if tile.program is None:
                continue
            place = tile.y * image.rectangle[0] + tile.x
            size = image.programs[tile.program].memory_bytes
            # Zeros at the end are most of a PE's memory.
            memory[place] = self._source.read(tile.x, tile.y, 0, size).rstrip(b"\0")
            if recorded := self._source.traces(tile.x, tile.y):
                traces[place] = recorded
        try:
            path.write_bytes(msgspec.msgpack.encode(_File(image, memory, traces)))
        except OSError as error:
            raise StorageError(f"the core {path} cannot be written: {error.strerror}") from error

    def symbol(self, fabric_x: int, fabric_y: int, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """A variable of the PE at a place of the fabric, viewed as `dtype`."""
        x, y = self._program.place_of(fabric_x, fabric_y)
        symbol = self._program.symbol(x, y, name)
        kind = np.dtype(dtype)
        if symbol.bytes % kind.itemsize:
            raise InputError(
                f"{name} has {symbol.bytes} bytes ({symbol.type}), which {kind} does not divide; "
                f"read it with the dtype of its elements"
            )
        data = self._source.read(x, y, symbol.address, symbol.bytes)
        return np.frombuffer(data, kind).copy()

    def trace(self, fabric_x: int, fabric_y: int, key: str) -> list[int | float | str | bool]:
        """What a PE recorded with <debug> under a key, in order."""
        x, y = self._program.place_of(fabric_x, fabric_y)
        return [value for name, value in self._source.traces(x, y) if name == key]


_stopped: dict[Path, Core] = {}
_KEPT = 4


def remember(core: Core, folder: Path) -> Core:
    """Keep the core of a stopped program for `recall`; only the last few folders are kept."""
    place = folder.resolve()
    _stopped.pop(place, None)
    _stopped[place] = core
    while len(_stopped) > _KEPT:
        del _stopped[next(iter(_stopped))]
    return core


def recall(folder: Path) -> Core:
    """The core of the program of a folder: of its last run in this process, or of a core file in that folder.

    Raises InputError if there is neither.
    """
    if core := _stopped.get(folder.resolve()):
        return core
    for path in (folder / "corefile.cs1", folder / "out.core", Path("corefile.cs1"), Path("out.core")):
        if path.is_file():
            return Core.load(path)
    raise InputError(
        f"no run of {folder} to look at: stop() its SdkRuntime first, or call dump_core('corefile.cs1') in the script "
        "that runs it"
    )
