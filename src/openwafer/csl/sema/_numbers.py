"""Arithmetic that the compiler does itself, exactly as the types define it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from openwafer.csl.ir import _bits as bits
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._types import Primitive, Type


class OutOfRange(Exception):  # noqa: N818
    """A number does not fit its type; the text says which numbers do."""


def round_float(value: float, type: Type) -> float:
    """The nearest value of a float type, to even if two are as near; too large ones become infinite."""
    if type is t.COMPTIME_FLOAT:
        return value
    if type is t.F32:
        return bits.round_single(value)
    return float_of_bits(float_bits(value, type), type)


def float_bits(value: float, type: Type) -> int:
    """The bits of a float in its type."""
    assert type.ir is not None
    return bits.encode(type.ir, value)


def float_of_bits(number: int, type: Type) -> float:
    """The float that has these bits."""
    assert type.ir is not None
    return float(bits.decode(type.ir, number))


def wrap(value: int, type: Primitive) -> int:
    """The value that the low bits of an integer have in a fixed-width type."""
    value &= (1 << type.bits) - 1
    return value - (1 << type.bits) if type.signed and value > type.high else value


def check(value: int, type: Type) -> int:
    """The integer itself. Raises OutOfRange if a fixed-width type does not have it."""
    if isinstance(type, Primitive) and type.bits and not type.low <= value <= type.high:
        raise OutOfRange(f"{value} does not fit `{type}`, which holds {type.low} to {type.high}")
    return value


def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _remainder(a: int, b: int) -> int:
    return a - b * _divide(a, b)


def _bounded_shift(a: int, b: int) -> int:
    if b > 4096:
        raise OutOfRange(f"a shift by {b} bits is more than any type has")
    return a << b


INTEGER: Final[dict[str, Callable[[int, int], int]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": _remainder,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<<": _bounded_shift,
    ">>": lambda a, b: a >> b,
}
"""Exact; division truncates towards zero."""

FLOAT: Final[dict[str, Callable[[float, float], float]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: _float_divide(a, b),
}


def _float_divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    if a == 0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def integer_arithmetic(operator: str, a: int, b: int, type: Type) -> int:
    """The result in the type. Raises OutOfRange, ZeroDivisionError."""
    if operator == "<<" and isinstance(type, Primitive) and type.bits:
        return wrap(a << min(b, type.bits), type)  # what is shifted out is lost, as in code
    return check(INTEGER[operator](a, b), type)


def float_arithmetic(operator: str, a: float, b: float, type: Type) -> float:
    """The result, rounded to the type once. Raises OutOfRange for a comptime_float that would be no number."""
    try:
        value = FLOAT[operator](a, b)
    except OverflowError:
        value = math.inf
    if type is t.COMPTIME_FLOAT and (math.isnan(value) or (operator == "/" and b == 0)):
        raise OutOfRange("a comptime_float is neither divided by zero nor NaN")
    return round_float(value, type)
