"""CSL's numbers in Python and NumPy, by the language's documents alone: the reference of random programs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
FLOATS = {"f16": np.float16, "f32": np.float32}
TYPES = (*INTEGERS, *FLOATS)


def bits(kind: str) -> int:
    return int(kind[1:])


def limits(kind: str) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    if kind[0] == "u":
        return 0, (1 << bits(kind)) - 1
    return -(1 << bits(kind) - 1), (1 << bits(kind) - 1) - 1


def wrap(kind: str, value: int) -> int:
    """Two's complement: integers of code wrap around."""
    low, _ = limits(kind)
    return (value - low) % (1 << bits(kind)) + low


def arithmetic(operator: str, kind: str, left: Any, right: Any) -> Any:
    """`left operator right`; integer division goes towards zero, floats round once to nearest even."""
    if kind in FLOATS:
        match operator:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
        return np.divide(left, right)
    match operator:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right
        case "/":
            result = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        case "%":
            result = abs(left) % abs(right) * (-1 if left < 0 else 1)
        case "&":
            result = left & right
        case "|":
            result = left | right
        case "^":
            result = left ^ right
        case "<<":
            result = left << right
        case _:
            result = left >> right
    return wrap(kind, int(result))


def negated(kind: str, value: Any) -> Any:
    return -value if kind in FLOATS else wrap(kind, -value)


def compared(operator: str, left: Any, right: Any) -> bool:
    match operator:
        case "==":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
    return bool(left >= right)


def converted(source: str, target: str, value: Any) -> Any:
    """@as: integers wrap, floats to integers are cut and end at the limits, everything to floats rounds once."""
    if source in INTEGERS:
        if target in INTEGERS:
            return wrap(target, value)
        exact = np.uint64(value) if source == "u64" else np.int64(value)
        return exact.astype(FLOATS[target])
    if target in FLOATS:
        return FLOATS[target](value)
    low, high = limits(target)
    number = float(value)
    if math.isnan(number):
        return 0
    return low if number <= low else high if number >= high else int(number)
