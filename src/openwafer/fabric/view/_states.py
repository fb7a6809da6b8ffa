"""What each PE is doing in each cycle, one state at a time: what the colors of the page mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openwafer.fabric._trace import MAIN_THREAD, Lack
from openwafer.fabric._trace_spans import KINDS, SpanName, Spans

StateKind = Literal["idle", "task", "wait", "send", "other", "micro", "microwait"]
IDLE, WORKING, SEVERAL, STUCK = range(4)
SEGMENT = np.dtype([("place", "<i8"), ("start", "<i8"), ("end", "<i8"), ("state", "<i8"), ("share", "u1")])
"""place: y * width + x; share: of 255, how much of the time the state had."""


@dataclass(frozen=True, slots=True)
class State:
    """What a PE can be doing. wait: for a wavelet; send: for room to send; other: for a FIFO, the datapath, an unblock."""

    kind: StateKind
    text: str


_FIRST = (
    State("idle", "idle"),
    State("micro", "only microthreads work"),
    State("task", "several tasks"),
    State("microwait", "several microthreads wait"),
)


def make_states(found: Spans, width: int, cycles: int) -> tuple[NDArray[Any], tuple[State, ...]]:
    """Segments by place and start, without idle ones; and the states.

    The main thread's task counts first, if it does not wait; then what it waits for; then microthreads that work; then
    what microthreads wait for.
    """
    states = list(_FIRST)
    numbers = [_number(states, _state(name)) for name in found.names]
    stuck = [_number(states, _microthread(name)) for name in found.names]
    spans = found.spans
    main = spans["thread"] == MAIN_THREAD
    task = spans["kind"] <= KINDS.index("command")
    wait = spans["kind"] == KINDS.index("wait")
    of_main = np.array(numbers or [0], np.int64)[spans["name"]]
    of_microthread = np.array(stuck or [0], np.int64)[spans["name"]]

    place = spans["y"].astype(np.int64) * width + spans["x"]
    places, times = np.concatenate([place, place]), np.concatenate([spans["start"], spans["end"]])
    order = np.lexsort((times, places))
    places, times = places[order], times[order]
    # Of events at one place and time the last one has all of them added.
    last = np.ones(places.size, bool)
    last[:-1] = (places[1:] != places[:-1]) | (times[1:] != times[:-1])
    places, times = places[last], times[last]

    def running(amount: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of `amount` over the spans that run, behind each event."""
        return np.cumsum(np.concatenate([amount, -amount])[order])[last]

    tasks, waits = running(task.astype(np.int64)), running((main & wait).astype(np.int64))
    threads, stopped = running((~main & ~wait).astype(np.int64)), running((~main & wait).astype(np.int64))
    state = np.select(
        [(tasks > 0) & (waits == 0), waits > 0, threads > stopped, stopped > 0],
        [
            np.where(tasks == 1, running(task * of_main), SEVERAL),
            running((main & wait) * of_main) // np.maximum(waits, 1),
            WORKING,
            np.where(stopped == 1, running((~main & wait) * of_microthread), STUCK),
        ],
        IDLE,
    )
    following = np.full(places.size, cycles, np.int64)
    following[:-1] = np.where(places[1:] == places[:-1], times[1:], cycles)
    keep = (state != IDLE) & (following > times)
    segments = np.zeros(int(keep.sum()), SEGMENT)
    segments["place"], segments["start"], segments["end"] = places[keep], times[keep], following[keep]
    segments["state"], segments["share"] = state[keep], 255
    return _merged(segments), tuple(states)


def _number(states: list[State], state: State | None) -> int:
    if state is None:
        return IDLE
    if state not in states:
        states.append(state)
    return states.index(state)


def _state(name: SpanName) -> State | None:
    if name.kind == "operation":
        return None
    if name.lack is None:
        return State("task", f"{name.text} ({name.place})")
    kinds: dict[Lack, StateKind] = {Lack.INPUT: "wait", Lack.OUTPUT: "send"}
    return State(kinds.get(name.lack, "other"), name.text.split(" ", 1)[1])


def _microthread(name: SpanName) -> State | None:
    return None if name.lack is None else State("microwait", f"microthread {name.text.split(' ', 1)[1]}")


def _merged(segments: NDArray[Any]) -> NDArray[Any]:
    """Neighbours in time of one state and share as one segment."""
    if segments.size == 0:
        return segments
    same = np.zeros(segments.size, bool)
    same[1:] = segments["end"][:-1] == segments["start"][1:]
    for field in ("place", "state", "share"):
        same[1:] &= segments[field][1:] == segments[field][:-1]
    first = np.flatnonzero(~same)
    merged = segments[first].copy()
    merged["end"] = segments["end"][np.append(first[1:], segments.size) - 1]
    return merged


def binned(segments: NDArray[Any], bin_cycles: int, states: int) -> NDArray[Any]:
    """The same by bins of time: in each bin the state that had most of it, and the share of all that was not idle."""
    begin, end = segments["start"] // bin_cycles, (segments["end"] - 1) // bin_cycles
    pieces = end - begin + 1
    which = np.repeat(np.arange(segments.size), pieces)
    within = np.arange(which.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    bins = begin[which] + within
    length = np.minimum(segments["end"][which], (bins + 1) * bin_cycles) - np.maximum(
        segments["start"][which], bins * bin_cycles
    )
    last = int(bins.max(initial=0)) + 1
    cell = segments["place"][which] * last + bins
    key, where = np.unique(cell * states + segments["state"][which], return_inverse=True)
    time = np.bincount(where, length).astype(np.int64)
    order = np.lexsort((-time, key // states))
    cells, first, which_cell = np.unique(key[order] // states, return_index=True, return_inverse=True)
    busy = np.bincount(which_cell, time[order])
    made = np.zeros(cells.size, SEGMENT)
    made["place"], made["start"] = cells // last, cells % last * bin_cycles
    made["end"] = made["start"] + bin_cycles
    made["state"] = key[order][first] % states
    # In sixteenths, so that neighbours can be one.
    made["share"] = np.clip(np.ceil(busy / bin_cycles * 16) * 16 - 1, 15, 255)
    return _merged(made)
