"""The comparison as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from openwafer.kernels.validate._compare import Result, summarise
from openwafer.kernels.validate._published import BOUNDS


def show_results(results: Sequence[Result], console: Console) -> None:
    """Print a line for each row, and how many hold."""
    table = Table(title="Published and simulated cycles", title_justify="left")
    for name in ("row", "architecture", "unit", "rows are"):
        table.add_column(name)
    for name in ("published", "simulated", "error", "bound", "holds"):
        table.add_column(name, justify="right")
    remarks = list(dict.fromkeys(one.row.remark for one in results if one.row.remark and one.holds is False))
    for one in results:
        row, bound = one.row, BOUNDS[one.row.bound]
        published = _number(row.low) if row.low == row.high else f"{_number(row.low)}-{_number(row.high)}"
        table.add_row(
            *(row.name, row.architecture, row.unit, "fitted" if row.fitted else "held out"),
            *(published, _number(one.simulated), f"{100 * one.error:+.1f} %"),
            *("-" if bound is None else f"{100 * bound:.0f} %", _verdict(one, remarks)),
        )
    console.print(table)
    for number, remark in enumerate(remarks, 1):
        console.print(f"remark {number}: {remark}")
    for summary in summarise(results):
        console.print(
            f"{summary.name}: {summary.held} of {summary.rows} rows within their bound, "
            f"mean error {100 * summary.mean_error:.1f} %"
        )


def _verdict(one: Result, remarks: list[str]) -> str:
    if one.holds is None:
        return "-"
    if one.holds:
        return "yes"
    return f"NO, remark {remarks.index(one.row.remark) + 1}" if one.row.remark else "NO"


def results_json(results: Sequence[Result]) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "rows": [
            {
                "name": one.row.name,
                "architecture": one.row.architecture,
                "unit": one.row.unit,
                "published": [one.row.low, one.row.high],
                "simulated": one.simulated,
                "error": one.error,
                "bound": BOUNDS[one.row.bound],
                "kind": one.row.bound,
                "fitted": one.row.fitted,
                "holds": one.holds,
                "remark": one.row.remark,
                "source": one.row.source,
            }
            for one in results
        ],
        "summary": [
            {"name": one.name, "rows": one.rows, "held": one.held, "mean_error": one.mean_error}
            for one in summarise(results)
        ],
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
