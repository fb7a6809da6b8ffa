"""What this machine could do, measured: the client divides by it and calls the result utilization."""

from __future__ import annotations

import os
import time

import torch

_SIZE = 512
_ROUNDS = 5


def measured_flops() -> int:
    """float32 operations a second of matrix products on all cores that this process may use: the fastest of a few products on
    one core, times their number. Takes some hundredths of a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.rand(_SIZE, _SIZE), torch.rand(_SIZE, _SIZE)
        fastest = min(_seconds(left, right) for _ in range(_ROUNDS))
    finally:
        torch.set_num_threads(before)
    return int(2 * _SIZE**3 / fastest) * len(os.sched_getaffinity(0))


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(left, right)
    return max(time.perf_counter() - started, 1e-9)
