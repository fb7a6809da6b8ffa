"""debug_util: look at a program after it has stopped ("SdkRuntime API Reference", debug_util)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from openwafer.host._core import recall
from openwafer.host._platform import no_system


class debug_util:  # noqa: N801 - the name that existing programs import
    """Variables and traces of the last run of a folder; places are the fabric's, not the rectangle's.

    Raises InputError if that program has not been run and stopped here, and left no core.
    """

    def __init__(self, bindir: Path | str, cmaddr: str | None = None) -> None:
        no_system(cmaddr)
        self._core = recall(Path(bindir))

    def get_symbol(self, col: int, row: int, symbol: str, dtype: DTypeLike) -> NDArray[Any]:
        """A variable of one PE, exported or not."""
        return self._core.symbol(col, row, symbol, dtype)

    def get_symbol_rect(
        self, rectangle: tuple[tuple[int, int], tuple[int, int]], symbol: str, dtype: DTypeLike
    ) -> NDArray[Any]:
        """A variable of every PE of ((column, row), (width, height)), by [column, row, element]."""
        (left, top), (width, height) = rectangle
        return np.stack(
            [
                np.stack([self._core.symbol(left + x, top + y, symbol, dtype) for y in range(height)])
                for x in range(width)
            ]
        )

    def read_trace(self, px: int, py: int, name: str) -> list[int | float | str | bool]:
        """What the PE recorded with <debug> in the buffer of that name, in order."""
        return self._core.trace(px, py, name)
