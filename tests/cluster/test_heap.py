"""Freed memory goes back, so that a run's peak is the plan's."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallinfo2 is glibc's")

PROGRAM = """
import ctypes
import torch
from openwafer.base import MIB
from openwafer.cluster._heap import bound_heap

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info

def mapped():
    before = libc.mallinfo2().hblkhd
    block = torch.empty(8 * MIB, dtype=torch.uint8)
    return libc.mallinfo2().hblkhd - before >= 8 * MIB

torch.empty(30 * MIB, dtype=torch.uint8)  # freed at once: from now on glibc takes so much from the heap
print(mapped(), bound_heap(), mapped())
"""


def _run(**environment: str) -> list[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=known | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs_glibc
def test_large_blocks_are_mappings_which_go_when_they_are_freed() -> None:
    """Else each layer's activations leave holes in the heap, and peaks grow from step to step."""
    assert _run() == ["False", "True", "True"]


@needs_glibc
def test_a_users_own_settings_of_malloc_stay() -> None:
    """Who prefers fewer page faults to less memory says so in the environment."""
    assert _run(MALLOC_TRIM_THRESHOLD_="4000000000", MALLOC_MMAP_THRESHOLD_="1000000000") == [
        "False",
        "False",
        "False",
    ]
