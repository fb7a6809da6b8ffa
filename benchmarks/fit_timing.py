"""Fits entries of the timing tables to the published cycles, and prints the error on the rows that it did not see.

    python benchmarks/fit_timing.py --architecture wse2 --rounds 4 --json fit.json

The rows are those of `wafer fabric validate`. Three of five take part, by their number alone (`Row.fitted`); rows that must
be exact, rows that promise nothing and rows that another program must have given never do. Only entries that nobody has
published are free, listed in FREE with the values that they may take. Least squares over relative errors, cut off at FAR,
with a small pull towards the values that the tables have now, so that entries which no row tells apart stay where they
are; coordinate by coordinate, since vector entries are whole cycles. Nothing is written: the result goes into
`src/openwafer/fabric/timing` by hand, with its source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from _common import describe_machine, entry, finish, parser_of, print_table

from openwafer.fabric import Timing, TimingValue, load_timing
from openwafer.kernels.validate import ROWS, Bench, Result, summarise, validate

_OPERATIONS = (1.0, 2.0, 3.0, 4.0, 6.0)
FREE: dict[tuple[str, ...], tuple[float, ...]] = {
    # entries that move together, and their values; "#n" is the n-th number of an entry
    ("vector.setup_cycles#1",): (0, 1, 2, 3, 4, 6),
    ("vector.setup_cycles#2",): (0, 1, 2, 3, 4, 6),
    ("vector.setup_cycles#3",): (0, 1, 2, 3, 4, 6),
    ("vector.descriptor_cycles#1",): (0, 1, 2, 3, 4, 5, 6),
    ("vector.descriptor_cycles#2",): (0, 1, 2, 3, 4, 5, 6),
    ("vector.descriptor_cycles#3",): (0, 2, 4, 6, 8, 9, 10, 11, 12),
    ("vector.start_cycles",): (0, 1, 2, 4),
    ("tasks.activate_cycles",): (0, 1, 2, 3),
    ("operations.call", "operations.return"): (0.0, *_OPERATIONS),
    ("operations.load16", "operations.load32"): _OPERATIONS,
    ("operations.add16",): _OPERATIONS,
    ("operations.address",): _OPERATIONS,
    ("operations.dsd_edit",): (0.0, *_OPERATIONS),
}
PULL = 0.002
"""Weight of the squared logarithm of an entry's change."""
FAR = 0.5
"""Relative errors beyond this count as this: a row that another program must have given shall not bend the others."""


def changed(table: Timing, values: dict[tuple[str, ...], float]) -> Timing:
    """The table with other values for some entries."""
    entries = dict(table.entries)
    for names, value in values.items():
        for name in names:
            plain, _, number = name.partition("#")
            old = entries[plain]
            numbers = list(old.values)
            numbers[int(number or 0)] = value
            entries[plain] = TimingValue(tuple(numbers), "derived", "fitted")
    return dataclasses.replace(table, entries=entries)


def read(table: Timing, names: tuple[str, ...]) -> float:
    """The value of the first of some entries."""
    plain, _, number = names[0].partition("#")
    return table.entries[plain].values[int(number or 0)]


def loss(results: Sequence[Result], start: Timing, values: dict[tuple[str, ...], float]) -> float:
    """Mean squared relative error, and the pull."""
    errors = [math.log(max(one.simulated, 1e-3) / _nearest(one)) for one in results]
    pull = sum(math.log((value + 1) / (read(start, names) + 1)) ** 2 for names, value in values.items())
    return sum(min(abs(error), FAR) ** 2 for error in errors) / len(errors) + PULL * pull


def _nearest(one: Result) -> float:
    return min(max(one.simulated, one.row.low), one.row.high)


def main() -> None:
    parser = parser_of(__doc__, folder=False)
    parser.add_argument("--architecture", choices=("wse2", "wse3"), default="wse3")
    parser.add_argument("--rounds", type=int, default=3, help="over all free entries")
    options = parser.parse_args()
    start = load_timing(options.architecture)
    bench = Bench()
    own = [row for row in ROWS if row.architecture == options.architecture]
    seen = [row for row in own if row.fitted]

    def weigh(values: dict[tuple[str, ...], float]) -> float:
        table = changed(start, values)
        return loss(validate(seen, {options.architecture: table}, bench=bench), start, values)

    values = {names: read(start, names) for names in FREE}
    best = weigh(values)
    print(f"{describe_machine()}\n{len(seen)} rows to fit, {len(own) - len(seen)} besides; loss {best:.4f}")
    for number in range(options.rounds):
        before = best
        for names, choices in FREE.items():
            for choice in choices:
                if choice == values[names]:
                    continue
                now = weigh({**values, names: choice})
                if now < best - 1e-6:
                    best, values = now, {**values, names: choice}
        print(f"round {number + 1}: loss {best:.4f}", flush=True)
        if best > before - 1e-5:
            break
    results = validate(own, {options.architecture: changed(start, values)}, bench=bench)
    rows: list[list[Any]] = [[", ".join(names), read(start, names), value] for names, value in values.items()]
    print_table(["entry", "was", "fitted"], rows)
    for one in summarise(results):
        print(
            f"{one.name}: {one.held} of {one.rows} within the bound, mean error {100 * one.mean_error:.1f} %"
        )
    finish(options, {"entries": {", ".join(names): value for names, value in values.items()}, "loss": best})


if __name__ == "__main__":
    entry(main, {})
