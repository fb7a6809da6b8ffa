"""Spans: what was going on from one cycle to another, put together from the records of a trace.

A span is a task, an operation or a wait of one thread of one PE. What had not ended lasts to the end of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openwafer.artifact._pe_abi import VECTOR_OPERATIONS
from openwafer.fabric._trace import COMMAND, MAIN_THREAD, NO_NUMBER, Lack, TraceKind
from openwafer.fabric._trace_file import ProgramFacts, Trace

SpanKind = Literal["task", "command", "operation", "wait"]
KINDS: tuple[SpanKind, ...] = ("task", "command", "operation", "wait")
SPAN = np.dtype(
    [
        ("x", "<u2"),
        ("y", "<u2"),
        ("thread", "u1"),
        ("kind", "u1"),
        ("name", "<u4"),
        ("start", "<i8"),
        ("end", "<i8"),
    ]
)
"""thread: 8 is the main thread; kind: index into KINDS; name: index into `Spans.names`; `end` is not part of it."""

_MAP = 255  # in place of the operation


@dataclass(frozen=True, slots=True)
class SpanName:
    """What spans with one number are called."""

    kind: SpanKind
    text: str
    """Of a task its name, of an operation `@fmacs`, of a wait what it waits for."""
    place: str = ""
    """`pe.csl:12:5` of an operation, or of the operation that waits; of a task where it is declared."""
    lack: Lack | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.place})" if self.place else self.text


@dataclass(frozen=True)
class Spans:
    """All spans of a trace, by row, column, thread and start."""

    spans: NDArray[Any]
    names: tuple[SpanName, ...]


def make_spans(trace: Trace) -> Spans:
    """Put a trace's records together."""
    records = trace.records
    program = trace.program_at[records["y"], records["x"]]
    kind = records["kind"]
    parts, keys = [], []
    for start, end in (
        (TraceKind.TASK_START, TraceKind.TASK_END),
        (TraceKind.VECTOR_START, TraceKind.VECTOR_END),
    ):
        chosen = (kind == start) | (kind == end)
        spans, key = _paired(records[chosen], program[chosen], start, trace.cycles)
        parts.append(spans)
        keys.append(key)
    chosen = kind == TraceKind.WAIT
    waits = records[chosen]
    spans = np.zeros(waits.size, SPAN)
    spans["x"], spans["y"], spans["thread"] = waits["x"], waits["y"], waits["a"] & 15
    spans["kind"] = KINDS.index("wait")
    spans["start"] = waits["cycle"]
    spans["end"] = waits["cycle"] + waits["c"]
    parts.append(spans)
    keys.append(_keys(spans["kind"], program[chosen], waits["a"] >> 4, waits["b"]))
    every, key = np.concatenate(parts), np.concatenate(keys)
    known, every["name"] = np.unique(key, return_inverse=True, axis=0)
    names = tuple(_name(trace, *map(int, row)) for row in known)
    order = np.lexsort((-every["end"], every["start"], every["thread"], every["x"], every["y"]))
    return Spans(every[order], names)


def short_name(file: str) -> str:
    """A file without its folders; modules of the libraries keep their names, as `<math>`."""
    return file if file.startswith("<") else PurePath(file).name


def _keys(kind: Any, program: Any, detail: Any, about: Any) -> NDArray[np.int64]:
    """Rows that are equal where spans have one name."""
    columns = np.broadcast_arrays(kind, program, detail, about)
    return np.stack([np.asarray(column, np.int64) for column in columns], axis=1)


def _paired(
    records: NDArray[Any], program: NDArray[np.int64], start: TraceKind, last: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Spans from starts and ends of one sort: the n-th start of a thread and its n-th end."""
    of_task = start == TraceKind.TASK_START
    thread = np.where(of_task, MAIN_THREAD, records["a"])
    group = (records["y"].astype(np.int64) << 32) | (records["x"].astype(np.int64) << 16) | thread
    cycle = records["cycle"].astype(np.int64)
    is_start = records["kind"] == start
    order = np.lexsort((cycle, group))
    starts, ends = order[is_start[order]], order[~is_start[order]]
    start_groups, first = np.unique(group[starts], return_index=True)
    # Ends of what began before the trace did.
    place = np.searchsorted(start_groups, group[ends])
    known = place < start_groups.size
    known[known] = start_groups[place[known]] == group[ends][known]
    known[known] = cycle[starts[first[place[known]]]] <= cycle[ends][known]
    ends = ends[known]

    end_groups, end_first = np.unique(group[ends], return_index=True)
    rank = np.arange(starts.size) - first[np.searchsorted(start_groups, group[starts])]
    where = np.searchsorted(end_groups, group[starts])
    until = np.full(starts.size, last, np.int64)
    if end_groups.size:
        counts = np.diff(np.append(end_first, ends.size))
        near = np.minimum(where, end_groups.size - 1)
        has = (end_groups[near] == group[starts]) & (rank < counts[near])
        until[has] = cycle[ends[end_first[near[has]] + rank[has]]]

    chosen = records[starts]
    spans = np.zeros(starts.size, SPAN)
    spans["x"], spans["y"], spans["thread"] = chosen["x"], chosen["y"], thread[starts]
    commands = of_task & (chosen["a"] == COMMAND)
    spans["kind"] = np.where(
        commands, KINDS.index("command"), KINDS.index("task" if of_task else "operation")
    )
    spans["start"], spans["end"] = chosen["cycle"], np.maximum(until, cycle[starts])
    return spans, _keys(spans["kind"], program[starts], 0, chosen["b"])


def _name(trace: Trace, kind: int, program: int, detail: int, about: int) -> SpanName:
    facts = trace.facts.programs[program]
    sort = KINDS[kind]
    if sort in ("task", "command"):
        known = about < len(facts.entries)
        declared = facts.places[about] if about < len(facts.places) else 0
        place = _place(facts, declared) or short_name(facts.name)
        return SpanName(sort, facts.entries[about] if known else f"entry {about}", place)
    operation, location = about & 255, about >> 8
    text = "@map" if operation == _MAP else f"@{VECTOR_OPERATIONS[operation]}"
    place = _place(facts, location)
    if sort == "operation":
        return SpanName(sort, text, place)
    lack, number = Lack(detail & 15), detail >> 4
    of = "" if number == NO_NUMBER else f" {number}"
    what = {
        Lack.SLOT: "waits for the datapath",
        Lack.INPUT: f"waits for a wavelet of color{of}",
        Lack.OUTPUT: f"waits for room to send on color{of}",
        Lack.FIFO: f"waits for FIFO{of}",
        Lack.BLOCKED: "waits: its microthread is blocked",
    }[lack]
    return SpanName(sort, f"{text} {what}", place, lack)


def _place(facts: ProgramFacts, location: int) -> str:
    if not 0 < location < len(facts.locations):
        return ""
    file, line, column = facts.locations[location]
    return f"{short_name(file)}:{line}:{column}"
