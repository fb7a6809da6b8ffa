"""loss.png: how the loss fell, what evaluation found, and which learning rate was used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openwafer.train.report._files import write_atomic
from openwafer.train.report._metrics import Metrics, read_metrics
from openwafer.train.report._style import FAINT, INK, new_figure, png, say, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_RAW, _SMOOTH, _EVAL, _LR = "#a9c8ea", "#1f5fae", "#e07b28", "#3a8f63"
_POINTS_DRAWN = 4_000
"""A picture has fewer columns of pixels than this; of a longer run each stretch shows its extremes."""
_LOG_RATIO = 30.0
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""


def loss_picture(metrics: str | Path, picture: str | Path, title: str = "") -> None:
    """Draw the train loss (raw and smoothed), the eval losses and, if logged, lr, from a metrics.jsonl.

    title: what to call the run in the picture. The picture replaces an earlier one whole.
    Raises InputError if the metrics cannot be read, StorageError if the picture cannot be written.
    """
    write_atomic(Path(picture), _draw(read_metrics(metrics), title))


def _draw(metrics: Metrics, title: str) -> bytes:
    steps_N = np.array([r.step for r in metrics.train], dtype=np.float64)
    losses_N = np.array([r.loss for r in metrics.train], dtype=np.float64)
    lr = [(r.step, r.logs["lr"]) for r in metrics.train if "lr" in r.logs]

    figure = new_figure(8, 5.2 if lr else 4.4)
    if lr:
        grid = figure.add_gridspec(2, 1, height_ratios=[4.2, 1])
        axes = figure.add_subplot(grid[0])
        below = figure.add_subplot(grid[1], sharex=axes)
        axes.tick_params(labelbottom=False)
        _draw_lr(below, lr)
    else:
        axes = below = figure.add_subplot()
    axes.set_title(f"Loss of {title}" if title else "Loss", loc="left", fontsize=11, color=INK)
    axes.set_ylabel("loss")
    below.set_xlabel("step")
    tidy(axes)
    if not metrics.train and not metrics.eval:
        say(axes, "no step was reported yet")
        return png(figure)

    finite_N = np.isfinite(losses_N)
    if finite_N.any():
        _draw_train(axes, steps_N, losses_N)
    if metrics.eval:
        axes.plot(
            [r.step for r in metrics.eval],
            [r.loss for r in metrics.eval],
            color=_EVAL,
            marker="o",
            markersize=4.5 if len(metrics.eval) <= 60 else 2,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1,
            label="eval",
            zorder=5,
        )
    _scale(axes, losses_N[finite_N], np.array([r.loss for r in metrics.eval], dtype=np.float64))
    bad = int((~finite_N).sum())
    if bad:
        steps = "step has a loss that is" if bad == 1 else "steps have losses that are"
        axes.text(
            0.01,
            0.02,
            f"{bad:,} {steps} not finite, the first is step {steps_N[~finite_N][0]:.0f}",
            transform=axes.transAxes,
            fontsize=8,
            color="#b5472f",
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper right")
    return png(figure)


def _draw_train(axes: Axes, steps_N: Floats, losses_N: Floats) -> None:
    style: dict[str, Any] = {"marker": "o", "markersize": 4} if len(steps_N) == 1 else {}
    x_P, y_P = _thin(steps_N, losses_N)
    smoothed_N = _smooth(losses_N)
    if smoothed_N is None:
        axes.plot(x_P, y_P, color=_SMOOTH, linewidth=1.4, label="train", zorder=4, **style)
        return
    axes.plot(x_P, y_P, color=_RAW, linewidth=0.7, label="train", zorder=3)
    x_P, y_P = _thin(steps_N, smoothed_N)
    axes.plot(x_P, y_P, color=_SMOOTH, linewidth=1.8, label="train, smoothed", zorder=4)


def _draw_lr(axes: Axes, lr: Sequence[tuple[int, float]]) -> None:
    values_N2 = np.array(lr, dtype=np.float64)
    x_P, y_P = _thin(values_N2[:, 0], values_N2[:, 1])
    axes.plot(x_P, y_P, color=_LR, linewidth=1.3, marker="o" if len(lr) == 1 else "", markersize=4)
    axes.set_ylabel("lr")
    tidy(axes)
    axes.locator_params(axis="y", nbins=3)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.yaxis.get_offset_text().set_color(FAINT)
    if np.isfinite(y_P).any() and np.nanmin(y_P) >= 0:
        axes.set_ylim(bottom=0)


def _scale(axes: Axes, train_N: Floats, eval_M: Floats) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    values = np.concatenate([train_N, eval_M[np.isfinite(eval_M)]])
    if values.size and values.min() > 0 and values.max() / values.min() > _LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylabel("loss (logarithmic)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    first, last = axes.get_xlim()
    if last - first < 2:  # one step: matplotlib would show fractions of it
        axes.set_xlim(first - 1, last + 1)


def _smooth(losses_N: Floats) -> Floats | None:
    """A weighted mean around each step, reaching about a hundredth of the run to both sides.

    Both sides, because a mean of the past alone lies above a loss that falls. Weights fall exponentially;
    losses that are not finite carry none. None for a run too short to be noisy.
    """
    if len(losses_N) < 20:
        return None
    keep = 1 - 1 / max(2.0, len(losses_N) / 100)
    finite_N = np.isfinite(losses_N)
    sums_N = _decaying_sum(np.where(finite_N, losses_N, 0.0), keep)
    weights_N = _decaying_sum(finite_N.astype(np.float64), keep)
    return np.divide(sums_N, weights_N, out=np.full_like(sums_N, np.nan), where=weights_N > 0)


def _decaying_sum(values_N: Floats, keep: float) -> Floats:
    """sum over j of values[j] * keep ** |i - j|, for every i."""
    total_N = -values_N  # each value is in both passes
    for part_N, out_N in ((values_N, total_N), (values_N[::-1], total_N[::-1])):
        running = 0.0
        for index, value in enumerate(part_N.tolist()):
            running = keep * running + value
            out_N[index] += running
    return total_N


def _thin(x_N: Floats, y_N: Floats) -> tuple[Floats, Floats]:
    """At most `_POINTS_DRAWN` points that draw as the whole: the least and the greatest of each stretch."""
    if len(x_N) <= _POINTS_DRAWN:
        return x_N, y_N
    keep = {0, len(x_N) - 1}
    for part in np.array_split(np.arange(len(x_N)), _POINTS_DRAWN // 2 - 1):
        finite = part[np.isfinite(y_N[part])]
        if finite.size:
            keep |= {int(finite[np.argmin(y_N[finite])]), int(finite[np.argmax(y_N[finite])])}
    index_P = np.array(sorted(keep))
    return x_N[index_P], y_N[index_P]
