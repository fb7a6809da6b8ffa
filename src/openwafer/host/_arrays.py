"""Host arrays and blocks of PEs: one order of words there, `[row, column, word]` here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openwafer.base import InputError
from openwafer.host._options import MemcpyOrder


def to_block(
    array: NDArray[Any], shape: tuple[int, ...], order: MemcpyOrder, what: str
) -> NDArray[np.uint32]:
    """The words of a host array as an array of `shape`; a copy, so that the caller may reuse his array.

    Raises InputError if the elements are not 32 bits wide or there are too few of them.
    """
    _check(array, shape, what)
    words = array.reshape(-1)[: int(np.prod(shape))].view(np.uint32)
    return np.array(words.reshape(shape, order="C" if order is MemcpyOrder.ROW_MAJOR else "F"), order="C")


def check_result(array: NDArray[Any], shape: tuple[int, ...], what: str) -> None:
    """Raises InputError if an array cannot take the words of `shape`."""
    _check(array, shape, what)
    if not array.flags.writeable:
        raise InputError(f"{what}: the array for the result is read-only; pass a copy of it")
    if not (array.flags.c_contiguous or array.ndim == 1):
        raise InputError(
            f"{what}: the array for the result is not contiguous; pass a new array and copy from it"
        )


def from_block(block: NDArray[np.uint32], array: NDArray[Any], order: MemcpyOrder) -> None:
    """Put the words of a block into a host array, as `to_block` would read them."""
    flat = array.reshape(-1)
    words = block.reshape(-1, order="C" if order is MemcpyOrder.ROW_MAJOR else "F")
    flat[: words.size] = words.view(array.dtype)


def _check(array: NDArray[Any], shape: tuple[int, ...], what: str) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(f"{what}: expected a NumPy array, found {type(array).__name__}")
    if array.dtype.itemsize != 4 or array.dtype.kind not in "iuf":
        hint = (
            "sdk_utils.input_array_to_u32 gives each 16-bit element a word of its own"
            if array.dtype.itemsize == 2
            else "convert it with .astype(np.float32), np.int32 or np.uint32"
        )
        raise InputError(f"{what}: the host side is 32-bit words, and the array has {array.dtype}; {hint}")
    need = int(np.prod(shape))
    if array.size < need:
        raise InputError(
            f"{what}: the array has {array.size} elements, and {' x '.join(map(str, shape))} = {need} are copied"
        )
