"""Throughput and latency against concurrency, as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from openwafer.serve.bench._report import LoadReport, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _GRID = "#22303c", "#8a97a3", "#e3e8ec"
_SHADES = {"p50": "#1f5fae", "p95": "#e07b28", "p99": "#a3281f"}


def draw_load(report: LoadReport, path: Path) -> None:
    """A PNG file with three panels: tokens a second, time to the first token, time of each token.

    Raises StorageError if it cannot be written.
    """
    # matplotlib takes most of a second to import, which nobody should wait for who wants no picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    speed, first, each = figure.subplots(1, 3)
    clients = [level.concurrency for level in report.levels]
    rates = [level.tokens_per_s for level in report.levels]
    speed.plot(clients, rates, "o-", color=_SHADES["p50"], markersize=4)
    speed.set_ylim(0, max(rates, default=0) * 1.12 or 1)
    for x, y in zip(clients, rates, strict=True):
        speed.annotate(f"{y:.0f}", (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=7)
    _tidy(speed, "tokens a second, all clients", clients)
    for axes, title, name, points in (
        (first, "first token (ms)", "first_token_s", ("p50", "p95", "p99")),
        (each, "each further token (ms)", "each_token_s", ("p50", "p95")),
    ):
        for point in points:
            found = [
                (level.concurrency, 1000 * times[point])
                for level in report.levels
                if point in (times := getattr(level, name))
            ]
            axes.plot(*zip(*found, strict=True), "o-", color=_SHADES[point], markersize=4, label=point)
        axes.set_ylim(bottom=0)
        _tidy(axes, title, clients)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.suptitle(report.model, x=0.01, ha="left", fontsize=10, color=_INK)
    figure.supxlabel("clients at the same time", fontsize=9, color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())


def _tidy(axes: Axes, title: str, clients: list[int]) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=_INK)
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, list(map(str, clients)))
    axes.minorticks_off()
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(True, color=_GRID, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
