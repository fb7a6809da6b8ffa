"""The machine's trace as a NumPy structured array."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TraceKind(IntEnum):
    """What a record says; `a` and `b` of the record are given behind each."""

    TASK_START = 0  # task id (32: a command of the host), -
    TASK_END = 1  # task id, -
    VECTOR_START = 2  # microthread (8: the main thread), operation + location * 256
    VECTOR_END = 3  # as VECTOR_START
    WAVELET_IN = 4  # color, data: into an input queue
    WAVELET_OUT = 5  # color, data: from an output queue to the router


TRACE_RECORD = np.dtype(
    [
        ("cycle", "<u8"),
        ("x", "<u2"),
        ("y", "<u2"),
        ("kind", "<u2"),
        ("a", "<u2"),
        ("b", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""A record of 24 bytes; x and y are places in the program's rectangle."""


def read_trace(data: bytes) -> NDArray[np.void]:
    """The records in `data`, sorted by cycle; records of one cycle stay in the order in which they were made."""
    records: NDArray[Any] = np.frombuffer(data, dtype=TRACE_RECORD)
    return records[np.argsort(records["cycle"], kind="stable")]
