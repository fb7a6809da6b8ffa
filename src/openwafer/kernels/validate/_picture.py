"""The comparison as a picture: each row's error over its published number."""

from __future__ import annotations

import io
from collections.abc import Sequence

from openwafer.kernels.validate._compare import Result
from openwafer.kernels.validate._published import BOUNDS, Bound

_COLORS = {"wse2": "#e07b28", "wse3": "#1f5fae"}
_INK, _FAINT = "#22303c", "#8a97a3"
_SPAN = 0.5  # errors beyond this stand at the edge


def results_picture(results: Sequence[Result]) -> bytes:
    """A PNG file: errors of vector and scalar rows in two panels, with the bound shaded; held-out rows are hollow."""
    # matplotlib takes most of a second to import, which nobody should wait for who wants no picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    kinds: tuple[Bound, ...] = ("vector", "scalar")
    for axes, kind in zip(panels, kinds, strict=True):
        bound = 100 * (BOUNDS[kind] or 0.0)
        axes.axhspan(-bound, bound, color="#eef3f8", zorder=0)
        axes.axhline(0, color=_FAINT, linewidth=0.8)
        rows = [one for one in results if one.row.bound == kind]
        for one in rows:
            color = _COLORS[one.row.architecture]
            error = 100 * max(-_SPAN, min(_SPAN, one.error))
            face = color if one.row.fitted else "white"
            axes.plot(one.row.low, error, "o", markersize=5, color=color, markerfacecolor=face)
        held = sum(one.holds is True for one in rows)
        axes.set_title(
            f"{kind} rows: {held} of {len(rows)} within {bound:.0f} %", loc="left", fontsize=10, color=_INK
        )
        axes.set_ylabel("error (%)", fontsize=9, color=_INK)
        axes.set_xscale("log")
        axes.tick_params(labelsize=8, colors=_INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[1].set_xlabel("published cycles, or elements a cycle", fontsize=9, color=_INK)
    for name, color in _COLORS.items():
        panels[0].plot([], [], "o", color=color, markersize=5, label=f"{name}, fitted")
        panels[0].plot(
            [], [], "o", color=color, markerfacecolor="white", markersize=5, label=f"{name}, not fitted"
        )
    panels[0].legend(loc="upper right", ncols=2, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
