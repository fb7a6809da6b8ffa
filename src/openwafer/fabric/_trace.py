"""The machine's trace as a NumPy structured array."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMMAND = 32
"""The task id of a command of the host."""
MAIN_THREAD = 8
"""The number of the main thread; microthreads are 0 to 7."""
TRACE_LIMIT = 20_000_000
"""Records that a machine keeps unless told otherwise: 480 MB."""


class TraceKind(IntEnum):
    """What a record says; `a`, `b` and `c` of the record are given behind each, 0 where nothing is."""

    TASK_START = 0  # task id or COMMAND; entry
    TASK_END = 1  # as TASK_START
    VECTOR_START = 2  # thread; operation + location * 256
    VECTOR_END = 3  # as VECTOR_START
    WAVELET_IN = 4  # color; data; 1 if a control wavelet: into an input queue
    WAVELET_OUT = 5  # as WAVELET_IN: from an output queue to the router
    WAIT = 6  # thread + Lack * 16 + color or FIFO * 256; as VECTOR_START; cycles: `cycle` is where the wait began
    PASSAGE = 7  # color + side it came from * 256; data; mask of sides it left by, + 256 if a control wavelet


class Lack(IntEnum):
    """What an operation waits for."""

    SLOT = 0  # the datapath, which another thread has
    INPUT = 1  # a wavelet of the color
    OUTPUT = 2  # room in the output queue of the color
    FIFO = 3  # data or room in the FIFO
    BLOCKED = 4  # its microthread to be unblocked


NO_NUMBER = 255
"""The color of a WAIT that is about none."""

TRACE_RECORD = np.dtype(
    [
        ("cycle", "<u8"),
        ("x", "<u2"),
        ("y", "<u2"),
        ("kind", "<u2"),
        ("a", "<u2"),
        ("b", "<u4"),
        ("c", "<u4"),
    ]
)
"""A record of 24 bytes; x and y are places in the program's rectangle. Sides are 0 west, 1 east, 2 south, 3 north, 4 the
ramp, 5 the host's port on the ramp."""


def read_trace(data: bytes) -> NDArray[np.void]:
    """The records in `data`, sorted by cycle; records of one cycle stay in the order in which they were made."""
    records: NDArray[Any] = np.frombuffer(data, dtype=TRACE_RECORD)
    return records[np.argsort(records["cycle"], kind="stable")]
