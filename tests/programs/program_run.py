"""How a test runs one of our CSL programs: copy and launch with NumPy arrays, and look at what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from openwafer.artifact._image import Image
from openwafer.fabric import Machine
from openwafer.host import MemcpyDataType, SdkRuntime, debug_util, write_artifacts

OFFSET = (4, 1)
MARGIN = (7, 2)  # columns and rows of the fabric that are not the program's


class Run:
    """A compiled program on a simulator. Arrays have the shape (rows, columns, elements): one row of elements per PE.

    `machine` makes the machine, where it is not the usual one.
    """

    def __init__(
        self,
        image: Image,
        folder: Path,
        params: Mapping[str, int | str],
        machine: Callable[..., Any] = Machine,
    ) -> None:
        self.architecture = image.architecture
        self.params = params
        self.folder = folder / "out"
        self.image = image
        self.width, self.height = image.rectangle
        self.runtime = SdkRuntime(write_artifacts(image, self.folder), timing="sim", machine=machine)
        self.runtime.load()
        self.runtime.run()
        self._stopped = False

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Copy to a variable of every PE; `values` is broadcast to (rows, columns, elements)."""
        block = np.broadcast_to(values, (self.height, self.width, np.shape(values)[-1]))
        self.put_at(name, 0, 0, block)

    def put_at(self, name: str, x: int, y: int, block: NDArray[Any]) -> None:
        """Copy (rows, columns, elements) to the PEs whose north-west corner is (x, y)."""
        rows, columns, count = block.shape
        words, kind = _words(block)
        self.runtime.memcpy_h2d(self.runtime.get_id(name), words, x, y, columns, rows, count, data_type=kind)

    def get(self, name: str, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """A variable of every PE, (rows, columns, count)."""
        return self.get_at(name, 0, 0, self.width, self.height, count, dtype)

    def get_at(
        self, name: str, x: int, y: int, columns: int, rows: int, count: int, dtype: DTypeLike
    ) -> NDArray[Any]:
        """The same of some of the PEs."""
        words = np.zeros(rows * columns * count, np.uint32)
        self.runtime.memcpy_d2h(
            words, self.runtime.get_id(name), x, y, columns, rows, count, data_type=_kind(dtype)
        )
        return _values(words, dtype).reshape(rows, columns, count)

    def launch(self, name: str, *arguments: Any) -> None:
        """Call an exported function on every PE and wait."""
        self.runtime.launch(name, *arguments)

    def stream_in(self, color: int, x: int, y: int, block: NDArray[Any], nonblock: bool = False) -> None:
        """Stream (rows, columns, elements) into the PEs from (x, y) on."""
        rows, columns, count = block.shape
        words, kind = _words(block)
        self.runtime.memcpy_h2d(
            color, words, x, y, columns, rows, count, streaming=True, data_type=kind, nonblock=nonblock
        )

    def stream_out(
        self, color: int, x: int, y: int, columns: int, rows: int, count: int, dtype: DTypeLike
    ) -> NDArray[Any]:
        """Take `count` elements from each of those PEs."""
        words = np.zeros(rows * columns * count, np.uint32)
        self.runtime.memcpy_d2h(
            words, color, x, y, columns, rows, count, streaming=True, data_type=_kind(dtype)
        )
        return _values(words, dtype).reshape(rows, columns, count)

    def stop(self) -> None:
        """Carry out what is left and end."""
        if not self._stopped:
            self._stopped = True
            self.runtime.stop()

    def left(self) -> dict[str, Any]:
        """Everything that a run leaves: the cycle, and of each PE its memory and its statistics."""
        machine = self.runtime.device.machine
        found: dict[str, Any] = {"cycle": machine.cycle, "prints": machine.prints()}
        for tile in self.image.tiles:
            if tile.program is not None:
                size = self.image.programs[tile.program].memory_bytes
                memory = machine.read(tile.x, tile.y, 0, size)
                found[f"PE ({tile.x}, {tile.y})"] = (machine.statistics(tile.x, tile.y), memory)
        return found

    def trace(self, x: int, y: int, key: str) -> list[Any]:
        """What a PE recorded with <debug>, after `stop`."""
        return debug_util(self.folder).read_trace(x + OFFSET[0], y + OFFSET[1], key)


def _kind(dtype: DTypeLike) -> MemcpyDataType:
    return MemcpyDataType.MEMCPY_16BIT if np.dtype(dtype).itemsize == 2 else MemcpyDataType.MEMCPY_32BIT


def _words(block: NDArray[Any]) -> tuple[NDArray[np.uint32], MemcpyDataType]:
    flat = np.ascontiguousarray(block).ravel()
    kind = _kind(flat.dtype)
    wide = flat.view(np.uint16).astype(np.uint32) if flat.dtype.itemsize == 2 else flat.view(np.uint32)
    return wide, kind


def _values(words: NDArray[np.uint32], dtype: DTypeLike) -> NDArray[Any]:
    if np.dtype(dtype).itemsize == 2:
        return words.astype(np.uint16).view(dtype)
    return words.view(dtype)
