"""The native module: which instruction sets it may use here, and how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import psutil
import torch

from openwafer.base import InputError

try:
    from openwafer.serve.kernels import _native

    native = _native
except ImportError:  # a source tree whose extension was not built: torch does everything
    native = None  # type: ignore[assignment]

Level = Literal["torch", "plain", "avx2", "avx512", "avx512bf16"]
"""What a kernel runs on, in rising order. `torch`: no native kernel. `plain`: any processor. `avx2`: with FMA and F16C.
`avx512`: F, BW, DQ and VL. `avx512bf16`: with BF16 and VNNI as well."""

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
"""The native module's numbers for dtypes."""


def levels() -> tuple[Level, ...]:
    """Those that this machine has, in rising order; the last is what kernels use unless told otherwise."""
    if native is None:
        return ("torch",)
    return ("torch", *cast("list[Level]", native.levels()))


def native_level(level: Level | None) -> int | None:
    """The native module's number for a level (None: the best one here); None if torch is to do it.

    Raises InputError if this machine does not have the level.
    """
    here = levels()
    if level is None:
        level = here[-1]
    if level not in here:
        raise InputError(f"level {level!r} is not to be had here; choose one of {', '.join(here)}")
    return None if level == "torch" else here.index(level) - 1


def threads() -> int:
    """How many threads the native kernels run on, the caller's included."""
    return 1 if native is None else native.threads()


def set_threads(count: int) -> None:
    """Run native kernels on so many threads from now on, the caller's included; not while a kernel runs.

    At first there are as many as physical cores that this process may use. Raises InputError for less than 1.
    """
    if count < 1:
        raise InputError(f"{count} threads cannot compute; give at least 1")
    if native is not None:
        native.set_threads(count)


@contextmanager
def torch_alone(wanted: bool = True) -> Iterator[None]:
    """Within it torch computes on the calling thread alone, if `wanted`.

    Its other threads would go on looking for work for milliseconds after every operation that they had a part in, on the
    cores that native kernels need at once.
    """
    count = torch.get_num_threads()
    if not wanted or count == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def _usable_cores() -> int:
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(logical, psutil.cpu_count(logical=False) or logical))


if native is not None:
    native.set_threads(_usable_cores())
