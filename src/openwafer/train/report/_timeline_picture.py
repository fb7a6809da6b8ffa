"""timeline.png: who was busy with what, over one or two steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from openwafer.train.report._lanes import KINDS, kind_of
from openwafer.train.report._style import DPI, FAINT, INK, new_figure, png, say, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from openwafer.train.report._timeline import Interval, Span

    Floats = NDArray[np.float64]

SPANS_DRAWN = 20_000
"""More spans than this are mostly narrower than a pixel; then columns are drawn, and the picture says so."""
COLUMNS = 1_200
LANES_DRAWN = 40

COLOURS = {
    "forward": "#2f7ed8",
    "backward": "#1b3f8b",
    "wait": "#d6dbe0",
    "read": "#3aa76d",
    "cast": "#a3d39c",
    "update": "#e8862e",
    "write": "#b5472f",
    "reduce": "#8e5bb5",
    "other": "#8a97a3",
}


def draw_timeline(
    spans: Sequence[Span], lanes: list[str], marks: dict[int, float], window: Interval | None
) -> bytes:
    """The picture as a PNG; see `Timeline.write_picture`."""
    from matplotlib.patches import Patch

    starts = sorted(marks.values()) or _inferred_starts(spans)
    begin, end = window or _window(spans, starts)
    shown = _lanes_drawn(lanes)
    rows = set(shown)
    inside = [s for s in spans if s.end_s >= begin and s.start_s <= end and s.lane in rows]
    drawn = inside if len(inside) <= SPANS_DRAWN else _columns(inside, shown, begin, end)

    figure = new_figure(10, 1.55 + 0.34 * max(len(shown), 2))
    axes = figure.add_subplot()
    axes.set_title(_title(marks, starts, begin, end), loc="left", fontsize=11, color=INK, pad=18)
    axes.set_xlabel("seconds")
    tidy(axes)
    axes.grid(False, axis="y")
    if not spans:
        say(axes, "no spans were recorded")
        return png(figure)

    axes.set_xlim(0, max(end - begin, 1e-9))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), shown)
    axes.tick_params(axis="y", length=0)
    kinds = [kind for kind in KINDS if any(kind_of(s.name) == kind for s in drawn)]
    for kind in kinds:
        _draw_kind(axes, kind, [s for s in drawn if kind_of(s.name) == kind], shown, begin, end)
    for row, lane in enumerate(shown):
        share = _busy_share([s for s in inside if s.lane == lane], begin, end)
        across = axes.get_yaxis_transform()
        axes.text(1.008, row, f"busy {share:.0%}", transform=across, va="center", fontsize=7.5, color=INK)
    _draw_steps(axes, marks, starts, begin, end)
    handles = [Patch(facecolor=COLOURS[kind], edgecolor="none", label=kind) for kind in kinds]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=8,
            handlelength=1.2,
            labelcolor=INK,
        )
    left_out = []
    if drawn is not inside:
        left_out.append(
            f"{len(inside):,} spans in {COLUMNS:,} columns, each showing what took most of its time"
        )
    if len(shown) < len(lanes):
        left_out.append(f"{len(shown)} of {len(lanes)} lanes are drawn")
    if left_out:
        axes.set_title("; ".join(left_out), loc="right", fontsize=7.5, color=FAINT, pad=18)
    return png(figure)


def _draw_kind(axes: Axes, kind: str, spans: list[Span], lanes: list[str], begin: float, end: float) -> None:
    """All spans of one kind as one collection of boxes; a span gets at least half a pixel."""
    from matplotlib.collections import PolyCollection

    row_of = {lane: row for row, lane in enumerate(lanes)}
    rows_S = np.array([row_of[s.lane] for s in spans], dtype=float)
    left_S = np.clip(np.array([s.start_s for s in spans]), begin, end) - begin
    right_S = np.clip(np.array([s.end_s for s in spans]), begin, end) - begin
    right_S = np.maximum(right_S, left_S + 0.5 * (end - begin) / (8 * DPI))
    half = 0.3 if kind == "wait" else 0.36
    corners = [(left_S, -half), (left_S, half), (right_S, half), (right_S, -half)]
    boxes_S42 = np.stack([np.stack([x_S, rows_S + dy], axis=-1) for x_S, dy in corners], axis=1)
    thin = len(spans) > 400
    axes.add_collection(
        PolyCollection(
            list(boxes_S42),
            facecolors=COLOURS[kind],
            edgecolors="none" if thin or kind == "wait" else "white",
            linewidths=0 if thin else 0.3,
            zorder=2 if kind == "wait" else 3,
        )
    )


def _lanes_drawn(lanes: list[str]) -> list[str]:
    """All lanes if they are few; else fewer systems, which resemble each other, and the first of the rest."""
    if len(lanes) <= LANES_DRAWN:
        return lanes
    rest = [lane for lane in lanes if not lane.startswith("system")]
    systems = [lane for lane in lanes if lane.startswith("system")]
    rest = rest[: max(LANES_DRAWN - len(systems), LANES_DRAWN // 2)]
    return systems[: LANES_DRAWN - len(rest)] + rest


def _columns(spans: Sequence[Span], lanes: list[str], begin: float, end: float) -> list[Span]:
    """The spans at the resolution of the picture: in each column of a lane, the kind that took most time."""
    from openwafer.train.report._timeline import Span

    edges_E = np.linspace(begin, end, COLUMNS + 1)
    merged = []
    for lane in lanes:
        mine = [s for s in spans if s.lane == lane]
        times_KC = np.zeros((len(KINDS) + 1, COLUMNS))
        for k, kind in enumerate(KINDS):
            starts_S = np.array([s.start_s for s in mine if kind_of(s.name) == kind])
            ends_S = np.array([s.end_s for s in mine if kind_of(s.name) == kind])
            times_KC[k] = np.diff(_since(starts_S, edges_E) - _since(ends_S, edges_E))
        times_KC[-1] = (end - begin) / COLUMNS - times_KC.sum(0)  # idle
        most_C = times_KC.argmax(0)
        bounds = [0, *(np.flatnonzero(np.diff(most_C)) + 1).tolist(), COLUMNS]
        for left, right in pairwise(bounds):
            if most_C[left] < len(KINDS):
                merged.append(Span(lane, KINDS[most_C[left]], float(edges_E[left]), float(edges_E[right])))
    return merged


def _since(times_S: Floats, edges_E: Floats) -> Floats:
    """For each edge, the sum over all earlier times of the time gone since."""
    ordered_S = np.sort(times_S)
    sums_S = np.concatenate([[0.0], np.cumsum(ordered_S - edges_E[0])])
    count_E = np.searchsorted(ordered_S, edges_E)
    since_E: Floats = count_E * (edges_E - edges_E[0]) - sums_S[count_E]
    return since_E


def _draw_steps(axes: Axes, marks: dict[int, float], starts: list[float], begin: float, end: float) -> None:
    """A dashed line where each step begins; its number above, if the timeline knows it."""
    if len(starts) > 200:
        return
    for start in starts:
        if begin <= start <= end and len(starts) > 1:
            axes.axvline(start - begin, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=4)
    for step, start in marks.items():
        if begin <= start <= end:
            axes.annotate(
                f"step {step}",
                (start - begin, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, 3),
                textcoords="offset points",
                fontsize=8,
                color=INK,
            )


def _inferred_starts(spans: Sequence[Span]) -> list[float]:
    """Steps begin where the first forward span of the run comes back on its lane."""
    first = min((s for s in spans if kind_of(s.name) == "forward"), key=lambda s: s.start_s, default=None)
    if first is None:
        return []
    return sorted(s.start_s for s in spans if s.lane == first.lane and s.name == first.name)


def _window(spans: Sequence[Span], starts: list[float]) -> Interval:
    if not spans:
        return 0.0, 1.0
    end = max(s.end_s for s in spans)
    begin = min(s.start_s for s in spans)
    return (starts[-2] if len(starts) > 2 else begin), end


def _title(marks: dict[int, float], starts: list[float], begin: float, end: float) -> str:
    steps = sorted(step for step, start in marks.items() if begin <= start <= end)
    if len(steps) > 1:
        return f"Timeline of steps {steps[0]} to {steps[-1]}"
    if steps:
        return f"Timeline of step {steps[0]}"
    inside = sum(begin <= start <= end for start in starts)
    return f"Timeline of the last {inside} steps" if 1 < inside < len(starts) else "Timeline"


def _busy_share(spans: list[Span], begin: float, end: float) -> float:
    """The share of the window in which a lane does something other than wait."""
    busy, reached = 0.0, begin
    for start, stop in sorted((s.start_s, s.end_s) for s in spans if kind_of(s.name) != "wait"):
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            busy += stop - start
            reached = stop
    return busy / (end - begin) if end > begin else 0.0
