"""The published cycles, as rows: what was measured, on which architecture, what it must come within, and its source.

Rows count through; three of five take part in fitting (`benchmarks/fit_timing.py`), by their number alone, so that nobody
chose them; rows that another program must have given never do (`Row.remark`). Facts about the network and the queues are
exact and never fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from openwafer.artifact._image import Architecture

Bound = Literal["exact", "vector", "scalar", "told"]
BOUNDS: dict[Bound, float | None] = {"exact": 0.0, "vector": 0.10, "scalar": 0.25, "told": None}
"""How far a row may be off. `told`: no promise, because the published program or its start and end are not known."""

NOT_PUBLISHED = -1
"""The number of a row that is not in this table."""

_NETWORK = "third-party measurement, series F"
_STENCILS = "third-party measurement, series J"
_FITTED = (0, 1, 3)  # of five
_ANOTHER_PROGRAM = (
    "on WSE-3 the published rows of radius 1 from 5 x 5 cells on take about 105 cycles an iteration less than those of "
    "smaller tiles suggest (5 x 5 takes less than 3 x 3): another program gave them, whose fixed costs ours does not have"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One published number. `low` and `high` are equal unless a range was published."""

    number: int
    name: str
    architecture: Architecture
    measure: str
    """A function of `_measures`."""
    low: float
    high: float
    bound: Bound
    unit: str
    source: str
    params: dict[str, int] = field(default_factory=dict)
    remark: str = ""
    """Why the row is off, where that is known. It stays bound like any other, but does not take part in fitting."""

    @property
    def fitted(self) -> bool:
        """Whether fitting may look at it."""
        free = self.bound in ("vector", "scalar") and not self.remark and self.number != NOT_PUBLISHED
        return free and self.number % 5 in _FITTED

    def error(self, simulated: float) -> float:
        """Relative to the nearest end of the published range; 0 inside of it."""
        nearest = min(max(simulated, self.low), self.high)
        return (simulated - nearest) / nearest


_CELL = (  # grid, WSE-2, WSE-3
    (3, 12, 17), (4, 15, 21), (5, 16, 23), (6, 16, 23), (8, 16, 24), (9, 16, 23), (15, 16, 23), (20, 15, 23),
    (50, 15, 23),
)  # fmt: skip
_Range = int | tuple[int, int] | None
_TILE: tuple[tuple[int, int, int, _Range, _Range], ...] = (  # columns, rows, radius, WSE-2, WSE-3
    (1, 1, 1, 127, 156), (2, 1, 1, 131, 162), (2, 2, 2, 271, 339), (3, 3, 1, 188, 197), (3, 3, 2, 371, 419),
    (3, 3, 3, (444, 450), 526), (2, 4, 1, 174, 204), (2, 4, 2, 323, 382), (4, 4, 4, 775, 808), (5, 5, 1, 285, 191),
    (5, 5, 2, (589, 599), 635), (5, 5, 3, (838, 846), 886), (5, 5, 5, 1364, 1389), (8, 8, 1, 551, 356),
    (10, 10, 1, (781, 790), 558), (10, 10, 2, 1679, 1712), (10, 10, 5, (3332, 3373), (3369, 3381)),
    (14, 1, 1, 232, 243), (14, 9, 4, 3190, 3216), (14, 9, 5, 4194, 4256), (14, 9, 6, 4753, 4732),
    (20, 20, 2, (4541, 4548), (4566, 4570)), (64, 64, 1, 25270, 16924), (86, 14, 1, 7741, 5299),
    (86, 14, 3, 18305, 18329), (86, 14, 5, 33304, 33699),
    (15, 15, 1, None, 1078), (15, 15, 2, None, 3418), (15, 15, 4, None, 6879), (15, 15, 6, None, 9890),
    (25, 25, 1, None, 2852), (25, 25, 2, None, 8149), (25, 25, 4, None, 14870), (25, 25, 6, None, 22865),
    (40, 40, 1, None, 6748), (40, 40, 2, None, 16880), (40, 40, 4, None, 36805), (40, 40, 6, None, 50378),
    (60, 60, 1, None, 14907), (60, 60, 2, None, 37207), (60, 60, 4, None, 81445), (60, 60, 6, None, 111297),
)  # fmt: skip

_Plain = tuple[str, tuple[Architecture, ...], str, dict[str, int], float, float, Bound, str, str]
_BOTH: tuple[Architecture, ...] = ("wse2", "wse3")
_THREE: tuple[Architecture, ...] = ("wse3",)
_TWO: tuple[Architecture, ...] = ("wse2",)
_PLAIN: tuple[_Plain, ...] = (
    # 5.1 fabric
    ("hop latency", _BOTH, "hop_cycles", {}, 2, 2, "exact", "cycles a hop", _NETWORK + "; example topic-13"),
    ("words on one link", _BOTH, "link_cycles", {"streams": 1}, 1, 1, "exact", "cycles a word", _NETWORK),
    ("two streams on one link", _BOTH, "link_cycles", {"streams": 2}, 2, 2, "exact", "cycles a word", _NETWORK),
    ("dispatch to first word on the link", _THREE, "send_cycles", {}, 7, 7, "exact", "cycles", _NETWORK),
    ("last landing to completion task", _THREE, "completion_cycles", {}, 3, 3, "exact", "cycles", _NETWORK),
    ("8 words, 1 hop, to completion task", _THREE, "transfer_cycles", {}, 19, 19, "exact", "cycles", _NETWORK),
    ("relay of 64 words", _THREE, "relay_cycles", {"count": 64}, 80.2, 80.2, "scalar", "cycles a hop", _NETWORK),
    ("relay of 512 words", _THREE, "relay_cycles", {"count": 512}, 528.6, 528.6, "vector", "cycles a hop", _NETWORK),
    # 5.2 compute
    ("write f16", _THREE, "vector_rate", {"what": 1}, 7.93, 8.0, "vector", "elements a cycle", _NETWORK),
    ("copy f16", _THREE, "vector_rate", {"what": 2}, 7.85, 8.0, "vector", "elements a cycle", _NETWORK),
    ("copy f32", _THREE, "vector_rate", {"what": 3}, 4.0, 4.0, "vector", "elements a cycle", _NETWORK),
    ("copy f16, stride 2", _THREE, "vector_rate", {"what": 2, "stride": 2}, 4.0, 4.0, "vector", "elements a cycle",
     _NETWORK),
    ("copy f16, stride 4", _THREE, "vector_rate", {"what": 2, "stride": 4}, 2.0, 2.0, "vector", "elements a cycle",
     _NETWORK),
    ("add f16", _THREE, "vector_rate", {"what": 4}, 3.96, 3.96, "vector", "elements a cycle", _NETWORK),
    ("multiply f16", _THREE, "vector_rate", {"what": 5}, 3.96, 3.96, "vector", "elements a cycle", _NETWORK),
    ("add i16", _THREE, "vector_rate", {"what": 6}, 3.94, 3.94, "vector", "elements a cycle", _NETWORK),
    ("multiply-add f16", _THREE, "vector_rate", {"what": 7}, 3.94, 4.0, "vector", "elements a cycle", _NETWORK),
    ("multiply-add f32", _THREE, "vector_rate", {"what": 8}, 0.5, 0.5, "vector", "elements a cycle", _NETWORK),
    ("sum f16", _THREE, "vector_slope", {"what": 9}, 2.0, 2.0, "vector", "cycles an element", _NETWORK),
    ("dot f16", _THREE, "vector_slope", {"what": 10}, 2.25, 2.25, "vector", "cycles an element", _NETWORK),
    ("add f16, 8 elements", _THREE, "vector_cycles", {"what": 4, "count": 8}, 8, 8, "scalar", "cycles", _NETWORK),
    ("add f16, 16 elements", _THREE, "vector_cycles", {"what": 4, "count": 16}, 10, 10, "scalar", "cycles", _NETWORK),
    ("add f16, 64 elements", _THREE, "vector_cycles", {"what": 4, "count": 64}, 22, 22, "scalar", "cycles", _NETWORK),
    ("sum of 8 f16", _THREE, "vector_cycles", {"what": 9, "count": 8}, 17, 17, "scalar", "cycles", _NETWORK),
    ("two copies of 4096 f16", _THREE, "vector_cycles", {"what": 11, "count": 4096}, 1027, 1027, "vector", "cycles",
     _NETWORK),
    ("one multiply-add of 4096 f16", _THREE, "vector_cycles", {"what": 7, "count": 4096}, 1040, 1040, "vector",
     "cycles", _NETWORK),
    ("4096 f16 by tiles of 16", _THREE, "loop_cycles", {"what": 3, "count": 4096}, 4617, 4617, "scalar", "cycles",
     _NETWORK),
    ("scalar dot f16", _THREE, "loop_slope", {"what": 1}, 22, 25, "scalar", "cycles an element", _NETWORK),
    ("scalar dot f32", _THREE, "loop_slope", {"what": 2}, 22, 25, "scalar", "cycles an element", _NETWORK),
    ("multiply-add of 5124 f32, banks apart", _TWO, "fmacs_cycles", {"shift": 1}, 5130, 5130, "vector", "cycles",
     "third-party measurement, series S"),
    ("multiply-add of 5124 f32, banks in conflict", _TWO, "fmacs_cycles", {"shift": 0}, 10254, 10254, "vector",
     "cycles", "third-party measurement, series S"),
    ("SUMMA, 4 steps of 14 x 14", _TWO, "gemm_cycles", {}, 45783, 45783, "scalar", "cycles",
     "third-party measurement of SUMMA"),
    # 5.4
    ("printing receiver, per word", _TWO, "counter_period", {}, 182, 182, "told", "cycles", "example topic-13"),
    ("sender with a print", _TWO, "counter_sender", {}, 28, 28, "told", "cycles", "example topic-13"),
)  # fmt: skip


def _rows() -> Iterator[Row]:
    number = 0
    for name, architectures, measure, params, low, high, bound, unit, source in _PLAIN:
        for architecture in architectures:
            yield Row(number, name, architecture, measure, low, high, bound, unit, source, params)
            number += 1
    for grid, *published in _CELL:
        for architecture, value in zip(_BOTH, published, strict=True):
            name = f"one cell a PE, {grid} x {grid} PEs"
            yield _stencil(number, name, architecture, "cell_cycles", value, "scalar", {"size": grid})
            number += 1
    for columns, rows, radius, *published_tiles in _TILE:
        large = min(columns, rows) >= 5
        kind: Bound = "vector" if large else "scalar"
        sizes = {"columns": columns, "rows": rows, "radius": radius}
        name = f"{columns} x {rows} cells a PE, radius {radius}"
        for architecture, entry in zip(_BOTH, published_tiles, strict=True):
            if entry is not None:
                remark = _ANOTHER_PROGRAM if large and radius == 1 and architecture == "wse3" else ""
                yield _stencil(number, name, architecture, "tile_cycles", entry, kind, sizes, remark)
                number += 1


def _stencil(
    number: int,
    name: str,
    architecture: Architecture,
    measure: str,
    published: int | tuple[int, int],
    bound: Bound,
    params: dict[str, int],
    remark: str = "",
) -> Row:
    low, high = published if isinstance(published, tuple) else (published, published)
    unit = "cycles an iteration"
    return Row(
        number, f"stencil, {name}", architecture, measure, low, high, bound, unit, _STENCILS, params, remark
    )


ROWS: tuple[Row, ...] = tuple(_rows())
"""All rows, in the order of their numbers."""
