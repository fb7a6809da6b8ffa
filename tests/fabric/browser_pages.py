"""Traces for the page's tests, made of records: what happens when is chosen and not simulated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openwafer.fabric import TRACE_RECORD, Lack, Trace, TraceFacts, TraceKind
from openwafer.fabric._trace_file import ProgramFacts

EAST, SOUTH, RAMP = 1, 2, 4


def fabric_trace(width: int, height: int, cycles: int, records: list[NDArray[Any]]) -> Trace:
    """A trace of `width` x `height` PEs that all run pe.csl, whose tasks are `start`, `receive` and `compute`."""
    program = ProgramFacts(
        name="pe.csl",
        entries=("start", "receive", "compute"),
        places=(),
        locations=(("pe.csl", 1, 1), ("pe.csl", 30, 5)),
    )
    facts = TraceFacts(
        architecture="wse3",
        timing="sim",
        fabric=(width + 7, height + 2),
        offset=(4, 1),
        rectangle=(width, height),
        cycles=cycles,
        dropped=0,
        programs=(program,),
        placed=np.zeros(width * height, "<u2").tobytes(),
    )
    joined = np.concatenate(records)
    return Trace(facts, joined[np.argsort(joined["cycle"], kind="stable")])


def on_each(width: int, height: int, cycle: Any, kind: TraceKind, a: Any = 0, b: Any = 0, c: Any = 0) -> Any:
    """The same record on every PE; a number may be an array, by row and column."""
    made = np.zeros(width * height, TRACE_RECORD)
    made["y"], made["x"] = np.divmod(np.arange(width * height), width)
    made["cycle"], made["kind"], made["a"], made["b"], made["c"] = cycle, kind, a, b, c
    return made


def sweep(width: int, height: int) -> Trace:
    """Each PE starts at cycle 10 * (x + y), waits 300 cycles for color 3, then computes for 400; two colors pass.

    Color 3 goes east in cycle 200 + 10 * (x + y), color 5 south 100 cycles later.
    """
    begin = 10 * np.add.outer(np.arange(height), np.arange(width)).ravel()
    wait = int(Lack.INPUT) << 4 | 8 | 3 << 8
    records = [
        on_each(width, height, begin, TraceKind.TASK_START, 9, 1),
        on_each(width, height, begin, TraceKind.VECTOR_START, 8, 1 + (1 << 8)),
        on_each(width, height, begin, TraceKind.WAIT, wait, 1 + (1 << 8), 300),
        on_each(width, height, begin + 300, TraceKind.VECTOR_END, 8, 1 + (1 << 8)),
        on_each(width, height, begin + 300, TraceKind.TASK_END, 9, 1),
        on_each(width, height, begin + 300, TraceKind.TASK_START, 10, 2),
        on_each(width, height, begin + 700, TraceKind.TASK_END, 10, 2),
        on_each(width, height, begin + 200, TraceKind.PASSAGE, 3 | RAMP << 8, 7, 1 << EAST),
        on_each(width, height, begin + 300, TraceKind.PASSAGE, 5 | RAMP << 8, 8, 1 << SOUTH),
    ]
    return fabric_trace(width, height, int(begin.max()) + 1000, records)
