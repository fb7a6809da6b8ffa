"""Arithmetic on expressions over the variables of loops; None where only the numbers themselves can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from openwafer.csl.layout._traced import Bound

Interval = tuple[Bound, Bound]
INFINITE: Final = (float("-inf"), float("inf"))
OF_NATURALS: Final = ("/", "%", "&")
"""Operators whose expression holds only where no operand is negative."""
COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")


def _sum(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _difference(a: Interval, b: Interval) -> Interval:
    return a[0] - b[1], a[1] - b[0]


def _product(a: Interval, b: Interval) -> Interval:
    if any(isinstance(one, float) for one in (*a, *b)):
        return INFINITE
    corners = [one * other for one in a for other in b]
    return min(corners), max(corners)


def _quotient(a: Interval, b: Interval) -> Interval | None:
    """Truncation and Python's rounding agree where nothing is negative."""
    return (0, a[1]) if a[0] >= 0 and b[0] > 0 else None


def _remainder(a: Interval, b: Interval) -> Interval | None:
    return (0, min(a[1], b[1] - 1)) if a[0] >= 0 and b[0] > 0 else None


def _and(a: Interval, b: Interval) -> Interval | None:
    return (0, min(a[1], b[1])) if a[0] >= 0 and b[0] >= 0 else None


_OPERATIONS: Final[dict[str, tuple[str, Callable[[Interval, Interval], Interval | None]]]] = {
    "+": ("+", _sum),
    "-": ("-", _difference),
    "*": ("*", _product),
    "/": ("//", _quotient),
    "%": ("%", _remainder),
    "&": ("&", _and),
}


def arithmetic(operator: str, left: str, right: str, a: Interval, b: Interval) -> tuple[str, Interval] | None:
    """The expression for `left operator right`, exact, and where it lies; `a` and `b` say where the operands lie."""
    found = _OPERATIONS.get(operator)
    interval = None if found is None else found[1](a, b)
    return None if found is None or interval is None else (f"({left} {found[0]} {right})", interval)


def decided(operator: str, a: Interval, b: Interval) -> bool | None:
    """The outcome of a comparison where the intervals alone tell it."""
    if operator in (">", ">="):
        operator, a, b = {">": "<", ">=": "<="}[operator], b, a
    if operator == "<":
        return True if a[1] < b[0] else False if a[0] >= b[1] else None
    if operator == "<=":
        return True if a[1] <= b[0] else False if a[0] > b[1] else None
    apart = a[1] < b[0] or b[1] < a[0]
    same = a[0] == a[1] == b[0] == b[1] and not isinstance(a[0], float)
    return None if not apart and not same else (same if operator == "==" else apart)
