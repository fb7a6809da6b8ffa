"""How many colors, queues, task ids and registers a PE has, and which of them memcpy keeps for itself.

Sources: "Task Identifiers and Task Execution", "Data Structure Descriptors" and "Builtins" of the SDK documentation 1.4.
The sizes of the DSR files are not published; see `machine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openwafer.machine import WSE2, WSE3

Architecture = Literal["wse2", "wse3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One architecture. Ranges hold every id that a program may name."""

    colors: range
    data_tasks: range
    """By color on WSE-2, by input queue on WSE-3."""
    local_tasks: range
    control_tasks: range
    input_queues: range
    output_queues: range
    microthreads: range
    dsrs: range
    xdsrs: range
    srs: range
    switched_colors: frozenset[int]
    """The colors whose routes may have switch positions."""
    filters: int
    config: range
    """Word addresses of configuration registers."""
    reserved_config: tuple[range, ...]
    """Those of routes and switches, which code at comptime must set in another way."""
    memcpy_colors: frozenset[int]
    """What <memcpy/memcpy> needs, so that programs that import it must leave it alone."""
    memcpy_tasks: dict[str, frozenset[int]]
    """By the kind of task."""
    memcpy_queues: frozenset[int]


_SHARED = {
    "colors": range(24),
    "control_tasks": range(64),
    "input_queues": range(8),
    "microthreads": range(8),
    "xdsrs": range(16),
    "srs": range(16),
    "config": range(0x7E00, 0x8000),
    "reserved_config": (range(0x7F20, 0x7F38), range(0x7F40, 0x7F58)),
    "memcpy_colors": frozenset((21, 22, 23)),
    "memcpy_tasks": {"local": frozenset((27, 28, 30)), "control": frozenset(range(33, 38))},
}

LIMITS: dict[Architecture, Limits] = {
    "wse2": Limits(
        data_tasks=range(24),
        local_tasks=range(31),
        output_queues=range(6),
        switched_colors=frozenset(range(24)),
        memcpy_queues=frozenset((0,)),
        filters=6,
        dsrs=range(int(WSE2.pe.dsrs)),
        **_SHARED,  # type: ignore[arg-type]
    ),
    "wse3": Limits(
        data_tasks=range(8),
        local_tasks=range(8, 31),
        output_queues=range(8),
        switched_colors=frozenset((*range(10), 12, 13, 16, 17, 20, 21)),
        memcpy_queues=frozenset((0, 1)),
        filters=6,
        dsrs=range(int(WSE3.pe.dsrs)),
        **_SHARED,  # type: ignore[arg-type]
    ),
}
"""By architecture."""

MACHINE_NAME: dict[Architecture, str] = {"wse2": "WSE-2", "wse3": "WSE-3"}
"""How messages call them."""


def span_of(ids: range) -> str:
    """`0..23`, as messages show a range of ids."""
    return f"{ids.start}..{ids.stop - 1}"
