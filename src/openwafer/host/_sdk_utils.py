"""Small conversions that host programs need around copies ("SdkRuntime API Reference", sdk_utils)."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from openwafer.base import InputError

Array: TypeAlias = NDArray[Any]


def memcpy_view(arr: Array, datatype: DTypeLike) -> Array:
    """A view of a 32-bit array in which every word shows its low 32, 16 or 8 bits as `datatype`.

    Writing to the view writes to `arr` and leaves the other bits. Raises InputError if `arr` has no 32-bit elements or
    `datatype` is wider.
    """
    kind = np.dtype(datatype)
    if arr.dtype.itemsize != 4:
        raise InputError(
            f"memcpy_view needs an array of 32-bit words, and this one is {arr.dtype}; make it np.uint32, one word per element"
        )
    if kind.itemsize not in (1, 2, 4):
        raise InputError(f"memcpy_view shows 8, 16 or 32 bits of a word, and {kind} has {8 * kind.itemsize}")
    if not arr.flags.c_contiguous:
        raise InputError("memcpy_view needs a contiguous array; take the view before transposing or slicing")
    if kind.itemsize == 4:
        return arr.view(kind)
    per_word = 4 // kind.itemsize
    low = 0 if sys.byteorder == "little" else per_word - 1
    return arr.view(kind).reshape(*arr.shape, per_word)[..., low]


def input_array_to_u32(np_arr: Array, sentinel: int | None, fast_dim_sz: int) -> NDArray[np.uint32]:
    """One 32-bit word for each element, in C order.

    16-bit elements stand in the low half; the high half is zero if `sentinel` is None, else the element's place modulo
    `fast_dim_sz`, as sparse wavelets carry it. 32-bit elements stay as they are.
    """
    flat = np.ascontiguousarray(np_arr).reshape(-1)
    if flat.dtype.itemsize == 4:
        return flat.view(np.uint32)
    if flat.dtype.itemsize != 2:
        raise InputError(f"input_array_to_u32 takes 16-bit and 32-bit elements, and these are {flat.dtype}")
    words = flat.view(np.uint16).astype(np.uint32)
    if sentinel is not None:
        if not 1 <= fast_dim_sz <= 1 << 16:
            raise InputError(f"input_array_to_u32: fast_dim_sz is {fast_dim_sz}; an index has 16 bits")
        words |= (np.arange(words.size, dtype=np.uint32) % np.uint32(fast_dim_sz)) << np.uint32(16)
    return words


def make_u48(words: Array) -> np.int64:
    """The number whose 16-bit words, lowest first, are `words`: a timestamp of <time>."""
    low, middle, high = (int(word) & 0xFFFF for word in words)
    return np.int64(low | middle << 16 | high << 32)


def sub_ts(words: Array) -> np.int64:
    """The cycles between two timestamps of three 16-bit words each, the first one first."""
    return np.int64(make_u48(words[3:6]) - make_u48(words[0:3]))


def float_to_hex(value: float) -> str:
    """The bits of a 32-bit float, as hex() writes them."""
    return hex(int(np.float32(value).view(np.uint32)))


def calculate_cycles(timestamp_buf: Array) -> np.int64:
    """The cycles between two timestamps that a PE packed into three 32-bit words: six 16-bit words, low half first."""
    if timestamp_buf.size < 3 or timestamp_buf.dtype.itemsize != 4:
        raise InputError(
            "calculate_cycles needs three 32-bit words, two timestamps of three 16-bit words each; "
            f"this is {timestamp_buf.size} of {timestamp_buf.dtype}"
        )
    words = np.ascontiguousarray(timestamp_buf).reshape(-1)[:3].view(np.uint32)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)
    return sub_ts(halves)
