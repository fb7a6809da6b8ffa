"""How a copy between host and wafer is done."""

from __future__ import annotations

from enum import IntEnum


class MemcpyDataType(IntEnum):
    """How wide the elements are on the wafer. On the host each has a 32-bit word, 16-bit ones in its low half."""

    MEMCPY_16BIT = 0
    MEMCPY_32BIT = 1


class MemcpyOrder(IntEnum):
    """How a host array of rows, columns and elements per PE is laid out.

    ROW_MAJOR: the elements of one PE are neighbours. COL_MAJOR: the PEs of one column are neighbours.
    """

    ROW_MAJOR = 0
    COL_MAJOR = 1
