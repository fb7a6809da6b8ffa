"""The streaming timeline of a run, cut down to what a page draws: lanes, their spans, and how busy each was."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec

from openwafer.appliance.dashboard._tail import read_plain
from openwafer.base import InputError

KINDS = ("forward", "backward", "wait", "read", "cast", "update", "write", "reduce", "other")
_MOST_BYTES = 64 << 20
_STEPS_SHOWN = 2
_PARTS = 1500
"""A span that is shorter than such a part of the window becomes one with its neighbour of the same kind."""
_MOST_SPANS = 1500
"""Of one lane."""


class Lane(msgspec.Struct, frozen=True):
    """One lane: the share of the window in which it did anything but wait, and spans as start, length, kind, name.

    Times are microseconds from the beginning of the window; kinds and names are places in the timeline's lists.
    """

    name: str
    busy: float
    spans: list[tuple[float, float, int, int]]


class TimelineView(msgspec.Struct, frozen=True):
    """The last recorded steps. steps: when each of them begins."""

    length_us: float
    steps: list[tuple[int, float]]
    kinds: tuple[str, ...]
    names: list[str]
    lanes: list[Lane]


class _Event(msgspec.Struct):
    ph: str = ""
    name: str = ""
    pid: int = 0
    tid: int = 0
    ts: float = 0.0
    dur: float = 0.0
    cat: str = ""
    args: dict[str, Any] = {}


class _Trace(msgspec.Struct):
    traceEvents: list[_Event]


def read_timeline(path: Path) -> TimelineView | None:
    """What a run's timeline.json holds of its last recorded steps; None if there is none yet.

    Raises InputError if the file is no trace, or too large to be shown.
    """
    try:
        if path.lstat().st_size > _MOST_BYTES:
            raise InputError(
                f"run/{path.name} has more than {_MOST_BYTES >> 20} MiB, too much for a page; open it in Perfetto"
            )
        trace = msgspec.json.decode(read_plain(path, _MOST_BYTES), type=_Trace)
    except OSError:
        return None
    except msgspec.MsgspecError as error:
        raise InputError(f"run/{path.name} is no trace: {error}; remove it") from None
    return _view(trace.traceEvents)


def _view(events: list[_Event]) -> TimelineView | None:
    processes = {event.pid: _named(event) for event in events if event.name == "process_name"}
    threads = {(event.pid, event.tid): _named(event) for event in events if event.name == "thread_name"}
    spans = [e for e in events if e.ph == "X" and math.isfinite(e.ts) and math.isfinite(e.dur) and e.dur >= 0]
    if not spans:
        return None
    marks = sorted(
        (event.ts, int(found[1]))
        for event in events
        if event.ph == "i" and (found := re.fullmatch(r"step (\d{1,15})", event.name))
    )
    shown = marks[-_STEPS_SHOWN:]
    begin = shown[0][0] if shown else min(span.ts for span in spans)
    end = max(span.ts + span.dur for span in spans)
    if end <= begin:
        return None
    names: dict[str, int] = {}
    lanes: dict[str, list[_Event]] = {}
    for span in sorted(spans, key=lambda span: span.ts):
        if span.ts + span.dur > begin:
            role, rest = processes.get(span.pid, f"{span.pid}"), threads.get((span.pid, span.tid), "")
            lane = role if rest in ("", role) else f"{role} {rest}"
            lanes.setdefault(lane, []).append(span)
    return TimelineView(
        length_us=end - begin,
        steps=[(step, at - begin) for at, step in shown],
        kinds=KINDS,
        lanes=[_lane(name, lanes[name], begin, end, names) for name in sorted(lanes, key=_order)],
        names=list(names),
    )


def _named(event: _Event) -> str:
    return str(event.args.get("name", ""))


def _lane(name: str, spans: list[_Event], begin: float, end: float, names: dict[str, int]) -> Lane:
    busy, reached = 0.0, begin
    shown: list[tuple[float, float, int, int]] = []
    least = (end - begin) / _PARTS
    for span in spans:
        kind = KINDS.index(span.cat) if span.cat in KINDS else len(KINDS) - 1
        start, stop = max(span.ts, begin), min(span.ts + span.dur, end)
        if KINDS[kind] != "wait":
            busy += max(0.0, stop - max(start, reached))
            reached = max(reached, stop)
        last = shown[-1] if shown else None
        if last and last[2] == kind and start - begin - (last[0] + last[1]) < least and stop - start < least:
            shown[-1] = (last[0], max(last[1], stop - begin - last[0]), kind, last[3])
        else:
            shown.append((start - begin, stop - start, kind, names.setdefault(span.name[:200], len(names))))
    if len(shown) > _MOST_SPANS:
        shown = sorted(sorted(shown, key=lambda one: -one[1])[:_MOST_SPANS])
    rounded = [(round(start, 1), round(length, 1), kind, named) for start, length, kind, named in shown]
    return Lane(name, min(1.0, busy / (end - begin)), rounded)


def _order(lane: str) -> tuple[int, list[tuple[int, str]]]:
    """Systems, MemoryX, the others; numbers in names by their value."""
    group = 0 if lane.startswith("system") else 1 if lane.startswith("memoryx") else 2
    return group, [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"\d+|\D+", lane)
    ]
