"""Wavelet-hops per second of the fabric simulator's network, on one core, without PEs' programs.

    python benchmarks/fabric_network.py --scale 1 --repeats 5 --json fabric_network.json

A hop is one wavelet over one link between two routers. `line`: a row of 200 hops with nothing else on it, which the
network moves as a train; `line, single`: the same wavelet by wavelet. `rows and columns`: on 16 x 16 tiles every row
and every column carries a stream that passes through, so each router has two. `column`: every tile of 16 x 16 sends to
the same corner, rows first, over one column. `neighbours`: every tile of 16 x 16 sends to its four neighbours and
receives from them, four wavelets a cycle for a ramp that takes one. In the last two most wavelets wait at any time;
in the last one a hop also stands for a way up a ramp and one down, which are not counted.
Seconds are of processor time, the best of the repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from _common import describe_machine, entry, finish, parser_of, print_table

from openwafer.base import InputError
from openwafer.fabric._native import NetworkProbe

WEST, EAST, SOUTH, NORTH, RAMP = 1, 2, 4, 8, 16
SIZE = 16


def line(count: int, *, trains: bool = True) -> Any:
    """A stream over 200 hops."""
    probe, hops = NetworkProbe(201, 1, trains=trains), 200
    for x in range(hops + 1):
        probe.configure(x, 0, 0, WEST if x else RAMP, EAST if x < hops else RAMP)
    probe.listen(hops, 0, 0, record=False)
    probe.stream(0, 0, 0, count)
    return probe


def rows_and_columns(count: int) -> Any:
    """A stream in each row on color 0 and in each column on color 1."""
    probe, last = NetworkProbe(SIZE, SIZE), SIZE - 1
    for i in range(SIZE):
        for k in range(SIZE):
            probe.configure(k, i, 0, WEST if k else RAMP, EAST if k < last else RAMP)
            probe.configure(i, k, 1, NORTH if k else RAMP, SOUTH if k < last else RAMP)
        probe.listen(last, i, 0, record=False)
        probe.listen(i, last, 1, record=False)
        probe.stream(0, i, 0, count)
        probe.stream(i, 0, 1, count)
    return probe


def column(count: int) -> Any:
    """Everyone's stream through the last column to the south-east corner."""
    probe, last = NetworkProbe(SIZE, SIZE), SIZE - 1
    for y in range(SIZE):
        for x in range(SIZE):
            rx = (WEST if x else 0) | (NORTH if x == last and y else 0)
            sends = (x, y) != (last, last)
            tx = EAST if x < last else SOUTH if y < last else RAMP
            probe.configure(x, y, 0, rx | (RAMP if sends else 0), tx)
            if sends:
                probe.stream(x, y, 0, count)
    probe.listen(last, last, 0, record=False)
    return probe


def neighbours(count: int) -> Any:
    """Four streams from every tile; a color for each direction and parity of the sender."""
    probe = NetworkProbe(SIZE, SIZE)
    steps = ((1, 0, EAST, WEST), (-1, 0, WEST, EAST), (0, 1, SOUTH, NORTH), (0, -1, NORTH, SOUTH))
    for y in range(SIZE):
        for x in range(SIZE):
            for i, (dx, dy, tx, rx) in enumerate(steps):
                if not (0 <= x + dx < SIZE and 0 <= y + dy < SIZE):
                    continue
                color = 2 * i + (x + y) % 2
                probe.configure(x, y, color, RAMP, tx)
                probe.configure(x + dx, y + dy, color, rx, RAMP)
                probe.listen(x + dx, y + dy, color, record=False)
                probe.stream(x, y, color, count)
    return probe


CASES: dict[str, tuple[Callable[[int], Any], int]] = {
    "line": (line, 200_000),
    "line, single": (lambda count: line(count, trains=False), 100_000),
    "rows and columns": (rows_and_columns, 20_000),
    "column": (column, 2_000),
    "neighbours": (neighbours, 3_000),
}


def measure(build: Callable[[int], Any], count: int) -> dict[str, float]:
    """Hops, simulated cycles and seconds of one run to the end."""
    probe = build(count)
    start = time.process_time()
    cycles = probe.run(10**12)
    seconds = time.process_time() - start
    return {"hops": probe.hops(), "cycles": cycles, "seconds": seconds}


def main() -> None:
    parser = parser_of(__doc__, folder=False)
    parser.add_argument("--scale", type=float, default=1.0, help="of the lengths of all streams")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.scale <= 0 or options.repeats < 1:
        raise InputError(
            "--scale and --repeats must be above 0; without them the benchmark runs as published"
        )

    rows: list[dict[str, Any]] = []
    for name, (build, count) in CASES.items():
        runs = [measure(build, max(1, int(count * options.scale))) for _ in range(options.repeats)]
        rows.append({"case": name, **min(runs, key=lambda run: run["seconds"])})
    print(f"{describe_machine()}\n")
    print_table(["case", "hops, M", "cycles", "s", "hops/s, M"], [cells(row) for row in rows])
    finish(options, {"rows": rows})


def cells(row: dict[str, Any]) -> list[object]:
    """One row of the table."""
    rate = row["hops"] / max(row["seconds"], 1e-9)
    return [
        row["case"],
        f"{row['hops'] / 1e6:.2f}",
        row["cycles"],
        f"{row['seconds']:.3f}",
        f"{rate / 1e6:.1f}",
    ]


if __name__ == "__main__":
    entry(main, {})
