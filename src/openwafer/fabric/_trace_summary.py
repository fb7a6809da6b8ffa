"""Where the cycles of a run went: busy, waiting and idle cycles of each PE, and the cycles of each launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openwafer.fabric._trace import MAIN_THREAD
from openwafer.fabric._trace_file import Trace
from openwafer.fabric._trace_spans import KINDS, Spans, make_spans

_MOST_WAITS = 5


@dataclass(frozen=True, slots=True)
class PeTime:
    """One PE: cycles of its main thread, which are `cycles` together, and of its microthreads."""

    x: int
    y: int
    program: str
    busy: int
    """In a task and not waiting."""
    waiting: int
    """In an operation of a task that lacks a wavelet, room, data of a FIFO or the datapath."""
    idle: int
    tasks: int
    """Tasks and launched functions that began."""
    microthread_busy: int
    """Cycles of operations on microthreads that did not wait, summed over the microthreads."""
    microthread_waiting: int


@dataclass(frozen=True, slots=True)
class LaunchTime:
    """One function that the host launched, on all PEs."""

    name: str
    start: int
    """The cycle in which the first PE began it."""
    cycles: int
    """From there to the end of the last task or operation that any PE began before the next launch."""
    pes: int


@dataclass(frozen=True, slots=True)
class WaitTime:
    """What operations of one source line waited for, on main threads and microthreads of all PEs."""

    text: str
    """`@mov32 waits for a wavelet of color 1 (pe.csl:7:3)`."""
    cycles: int
    """Summed over waits, PEs and threads."""
    waits: int
    pes: int


@dataclass(frozen=True, slots=True)
class TimeSummary:
    """Where the cycles went."""

    cycles: int
    dropped: int
    """Records that the trace lacks; above 0 the numbers are of the time until they were."""
    pes: tuple[PeTime, ...]
    """By row and column."""
    launches: tuple[LaunchTime, ...]
    waits: tuple[WaitTime, ...] = ()
    """The longest in all first."""


def summarise_trace(trace: Trace) -> TimeSummary:
    """Add up a trace. PEs with a program that never ran are in it, as idle."""
    found = make_spans(trace)
    spans, last = found.spans, trace.cycles
    width, height = trace.facts.rectangle
    at = spans["y"].astype(np.int64) * width + spans["x"]
    length = spans["end"] - spans["start"]
    main = spans["thread"] == MAIN_THREAD
    of_task = spans["kind"] <= KINDS.index("command")
    of_wait = spans["kind"] == KINDS.index("wait")

    def total(chosen: Any, weights: Any = length) -> NDArray[np.int64]:
        return np.bincount(
            at[chosen], np.broadcast_to(weights, at.shape)[chosen], minlength=width * height
        ).astype(np.int64)

    in_task, waiting = total(of_task), total(main & of_wait)
    tasks = total(of_task, np.int64(1))
    micro, micro_waiting = total(~main & ~of_wait), total(~main & of_wait)
    pes = []
    for y, x in np.argwhere(trace.program_at >= 0).tolist():
        place = y * width + x
        pes.append(
            PeTime(
                x=x,
                y=y,
                program=trace.facts.programs[int(trace.program_at[y, x])].name,
                busy=int(in_task[place] - waiting[place]),
                waiting=int(waiting[place]),
                idle=int(last - in_task[place]),
                tasks=int(tasks[place]),
                microthread_busy=int(micro[place] - micro_waiting[place]),
                microthread_waiting=int(micro_waiting[place]),
            )
        )
    return TimeSummary(last, trace.facts.dropped, tuple(pes), find_launches(found, width), _waits(found, at))


def _waits(found: Spans, at: NDArray[np.int64]) -> tuple[WaitTime, ...]:
    chosen = found.spans["kind"] == KINDS.index("wait")
    waits, place = found.spans[chosen], at[chosen]
    names, which = np.unique(waits["name"], return_inverse=True)
    cycles = np.bincount(which, waits["end"] - waits["start"])
    number = np.bincount(which)
    of_name = np.unique(np.stack([which, place]), axis=1)[0]
    pes = np.bincount(of_name, minlength=names.size)
    rows = [
        WaitTime(str(found.names[name]), int(cycles[i]), int(number[i]), int(pes[i]))
        for i, name in enumerate(names.tolist())
    ]
    return tuple(sorted(rows, key=lambda row: (-row.cycles, row.text)))


def find_launches(found: Spans, width: int) -> tuple[LaunchTime, ...]:
    """The launches in a trace whose rectangle is `width` PEs wide.

    Commands by start: one belongs to the last launch of its name that has not reached its PE.
    """
    names, spans = found.names, found.spans
    at = spans["y"].astype(np.int64) * width + spans["x"]
    commands = spans[spans["kind"] == KINDS.index("command")]
    place = at[spans["kind"] == KINDS.index("command")]
    order = np.argsort(commands["start"], kind="stable")
    groups: list[tuple[str, int, set[int]]] = []
    for index in order.tolist():
        name, pe = names[int(commands["name"][index])].text, int(place[index])
        for group in reversed(groups):
            if group[0] == name and pe not in group[2]:
                group[2].add(pe)
                break
            if pe in group[2]:
                groups.append((name, int(commands["start"][index]), {pe}))
                break
        else:
            groups.append((name, int(commands["start"][index]), {pe}))
    starts = np.array([start for _, start, _ in groups], np.int64)
    if not groups:
        return ()
    number = np.searchsorted(starts, spans["start"], side="right") - 1
    inside = (number >= 0) & (spans["kind"] != KINDS.index("wait"))
    ends = starts.copy()
    np.maximum.at(ends, number[inside], spans["end"][inside])
    return tuple(
        LaunchTime(name, start, int(end - start), len(members))
        for (name, start, members), end in zip(groups, ends, strict=True)
    )


def describe_time(summary: TimeSummary, most: int = 16) -> str:
    """The summary for people: launches, shares of all PEs, the `most` busiest PEs, and the longest waits."""
    lines = [f"{summary.cycles:,} cycles"]
    if summary.dropped:
        lines.append(f"the trace was full: {summary.dropped:,} later records are not counted")
    lines += [
        f"  launch {one.name:<24} at cycle {one.start:>12,}: {one.cycles:>12,} cycles on {one.pes:,} PEs"
        for one in summary.launches
    ]
    if summary.pes:
        whole = summary.cycles * len(summary.pes)
        shares = {
            name: f"{sum(getattr(one, name) for one in summary.pes) / whole:.1%}".replace("%", " %")
            for name in ("busy", "waiting", "idle")
        }
        lines.append(
            f"  all {len(summary.pes):,} PEs: "
            + ", ".join(f"{name} {share}" for name, share in shares.items())
        )
        lines.append(
            f"  {'PE':<10} {'program':<20} {'busy':>12} {'waiting':>12} {'idle':>12} {'tasks':>8} {'microthreads':>13}"
        )
        busiest = sorted(summary.pes, key=lambda one: (-one.busy, one.y, one.x))[:most]
        for one in sorted(busiest, key=lambda one: (one.y, one.x)):
            lines.append(
                f"  {f'({one.x}, {one.y})':<10} {one.program[-20:]:<20} {one.busy:>12,} {one.waiting:>12,} {one.idle:>12,} "
                f"{one.tasks:>8,} {one.microthread_busy:>13,}"
            )
        if len(summary.pes) > most:
            lines.append(f"  ... the {most:,} busiest of {len(summary.pes):,} PEs")
    if summary.waits:
        lines.append("  the longest waits, added up over PEs and threads:")
    for wait in summary.waits[:_MOST_WAITS]:
        lines.append(
            f"  {wait.cycles:>14,} cycles in {wait.waits:,} on {wait.pes:,} {'PE' if wait.pes == 1 else 'PEs'}: {wait.text}"
        )
    return "\n".join(lines) + "\n"
