"""Runs the rows and compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openwafer.artifact._image import Architecture
from openwafer.fabric import Timing, load_timing
from openwafer.kernels.validate._bench import Bench
from openwafer.kernels.validate._measures import measure_row
from openwafer.kernels.validate._published import BOUNDS, Row

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Result:
    """A row and what the simulator gave."""

    row: Row
    simulated: float

    @property
    def error(self) -> float:
        """Relative to the published number."""
        return self.row.error(self.simulated)

    @property
    def holds(self) -> bool | None:
        """Whether the error is within the row's bound; None for rows that promise nothing."""
        bound = BOUNDS[self.row.bound]
        return None if bound is None else abs(self.error) <= bound + _ROUNDING


@dataclass(frozen=True, slots=True)
class Summary:
    """How many rows of a kind hold, and the mean of their errors without signs."""

    name: str
    rows: int
    held: int
    mean_error: float


def validate(
    rows: Sequence[Row],
    timings: dict[Architecture, Timing] | None = None,
    tell: Callable[[Row], None] | None = None,
    bench: Bench | None = None,
) -> list[Result]:
    """Measure `rows`, each on the table of its architecture: those given, else the sim tables of openwafer.

    tell: called before each row. Raises FabricError if a program does not end.
    """
    tables = dict(timings or {})
    bench = bench or Bench()
    results = []
    for row in rows:
        if tell is not None:
            tell(row)
        if row.architecture not in tables:
            tables[row.architecture] = load_timing(row.architecture)
        results.append(Result(row, measure_row(row, bench, tables[row.architecture])))
    return results


def summarise(results: Sequence[Result]) -> list[Summary]:
    """By bound, and for fitted and held-out rows; rows with a remark count among all of a bound, and as their own."""
    groups: list[tuple[str, list[Result]]] = []
    for bound in ("exact", "vector", "scalar"):
        chosen = [one for one in results if one.row.bound == bound]
        groups.append((bound, chosen))
        if bound != "exact":
            groups.append((f"{bound}, fitted", [one for one in chosen if one.row.fitted]))
            groups.append(
                (f"{bound}, held out", [one for one in chosen if not (one.row.fitted or one.row.remark)])
            )
            groups.append((f"{bound}, with a remark", [one for one in chosen if one.row.remark]))
    return [
        Summary(
            name,
            len(chosen),
            sum(one.holds is True for one in chosen),
            sum(abs(one.error) for one in chosen) / len(chosen),
        )
        for name, chosen in groups
        if chosen
    ]
