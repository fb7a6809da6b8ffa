"""When each part of the cluster did what: spans of time on named lanes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final

import msgspec

from openwafer.base import InputError
from openwafer.train.report._files import write_atomic
from openwafer.train.report._lanes import kind_of, lane_order

Interval = tuple[float, float]


class SpanLike(Protocol):
    """Anything that says on which lane what was done, and when. Seconds on one clock."""

    @property
    def lane(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


class Span(NamedTuple):
    """One interval of a lane's time."""

    lane: str
    name: str
    start_s: float
    end_s: float


@final
class Timeline:
    """Collects spans and shows them: as a trace for Perfetto, as a picture, as shares of overlap.

    The first word of a lane names its role ("memoryx stream" is a lane of memoryx), the first word of a span
    its kind: forward, backward, wait, read, cast, update, write, reduce, or other. Waiting is not busy.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._marks: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans, in the order in which they were added."""
        return tuple(self._spans)

    @property
    def marks(self) -> dict[int, float]:
        """Start of each marked step, in seconds."""
        return dict(self._marks)

    def add(self, lane: str, name: str, start_s: float, end_s: float) -> None:
        """Add one span. Raises InputError unless both times are finite and the end is not the earlier."""
        if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s <= end_s):
            raise InputError(
                f"the span {name!r} on lane {lane!r} goes from {start_s} s to {end_s} s; "
                "give finite times of one clock, the end not before the start"
            )
        self._spans.append(Span(lane, name, float(start_s), float(end_s)))

    def extend(self, spans: Iterable[SpanLike]) -> None:
        """Add spans as the roles report them."""
        for span in spans:
            self.add(span.lane, span.name, span.start_s, span.end_s)

    def mark_step(self, step: int, start_s: float) -> None:
        """Say when a step began; the trace and the picture show it."""
        self._marks[step] = float(start_s)

    def lanes(self) -> list[str]:
        """The lanes from top to bottom: systems by number, memoryx, the others by name."""
        return sorted({span.lane for span in self._spans}, key=lane_order)

    def busy(self, lane: str) -> list[Interval]:
        """When the lane did something other than wait: disjoint intervals in order, in seconds."""
        return _union(
            (s.start_s, s.end_s) for s in self._spans if s.lane == lane and kind_of(s.name) != "wait"
        )

    def overlap(self, lane_a: str, lane_b: str) -> float:
        """The share (0 to 1) of lane_a's busy time during which lane_b is busy too; 0 if lane_a never is."""
        busy_a = self.busy(lane_a)
        total = sum(end - start for start, end in busy_a)
        if total <= 0:
            return 0.0
        return min(1.0, _common(busy_a, self.busy(lane_b)) / total)

    def write_trace(self, path: str | Path) -> None:
        """Write the Chrome trace (JSON; opens in Perfetto and chrome://tracing). Raises StorageError.

        One process for each role, one thread for each lane, one complete event for each span; microseconds
        since the earliest span.
        """
        write_atomic(
            Path(path), msgspec.json.encode({"traceEvents": self._events(), "displayTimeUnit": "ms"})
        )

    def write_picture(self, path: str | Path, window: Interval | None = None) -> None:
        """Draw the lanes over `window` (seconds on the clock of the spans) as a PNG. Raises StorageError.

        window: by default the last two steps. They are found by `mark_step`, else by the first forward span,
        whose name comes back at each step; if neither says where steps begin, everything is drawn.
        """
        from openwafer.train.report._timeline_picture import draw_timeline

        write_atomic(Path(path), draw_timeline(self.spans, self.lanes(), self.marks, window))

    def _events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        origin = min((span.start_s for span in self._spans), default=0.0)
        processes: dict[str, int] = {}
        places: dict[str, tuple[int, int]] = {}
        for thread, lane in enumerate(self.lanes(), 1):
            role, _, rest = lane.partition(" ")
            if role not in processes:
                process = processes[role] = len(processes) + 1
                events += _names("process", process, 0, role, process)
            places[lane] = (processes[role], thread)
            events += _names("thread", processes[role], thread, rest or role, thread)
        for step, start_s in self._marks.items():
            events.append(
                {
                    "name": f"step {step}",
                    "ph": "i",
                    "s": "g",
                    "pid": 1,
                    "tid": 1,
                    "ts": 1e6 * (start_s - origin),
                }
            )
        for lane, name, start_s, end_s in self._spans:
            process, thread = places[lane]
            events.append(
                {
                    "name": name,
                    "cat": kind_of(name),
                    "ph": "X",
                    "pid": process,
                    "tid": thread,
                    "ts": 1e6 * (start_s - origin),
                    "dur": 1e6 * (end_s - start_s),
                }
            )
        return events


def _names(what: str, process: int, thread: int, name: str, order: int) -> list[dict[str, Any]]:
    place = {"ph": "M", "pid": process, "tid": thread}
    return [
        {"name": f"{what}_name", **place, "args": {"name": name}},
        {"name": f"{what}_sort_index", **place, "args": {"sort_index": order}},
    ]


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _common(a: list[Interval], b: list[Interval]) -> float:
    """Length of the intersection of two lists of disjoint, ordered intervals."""
    total, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return total
