"""What the C library does with freed memory, so that a run needs what its plan says. Of glibc; nothing elsewhere."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from openwafer.base import MIB

M_MMAP_THRESHOLD = -3
"""The number of the parameter in glibc's malloc.h."""
MMAP_THRESHOLD_BYTES = 4 * MIB
"""Measured on a GPT of 98 M parameters in bfloat16, five steps: peaks 1 to 3 % above the plan and no slower than with glibc's
own moving threshold, whose peaks are 5 to 19 % above it; 1 MiB costs a fifth of the speed in page faults."""
_CHOSEN_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def bound_heap() -> bool:
    """From now on blocks of MMAP_THRESHOLD_BYTES and more are mappings of this process, which go when they are freed.

    glibc raises its threshold to the largest block that was freed (32 MiB at most) and then takes activations from heaps of
    64 MiB, whose holes add up from layer to layer. Leaves it at that, and returns False, if the user has set one of
    malloc's variables, or if the C library has no such parameter.
    """
    mallopt = _function("mallopt")
    if mallopt is None or any(name in os.environ for name in _CHOSEN_BY_USER):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES))


def release_freed() -> None:
    """Have the C library give freed memory back to the kernel.

    Threads allocate from heaps of their own, so that what one has freed is of no use to the others.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
