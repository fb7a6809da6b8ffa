"""Arithmetic that the compiler does itself, exactly as the types define it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Final

from openwafer.csl.sema import _types as t
from openwafer.csl.sema._types import Primitive, Type


class OutOfRange(Exception):  # noqa: N818
    """A number does not fit its type; the text says which numbers do."""


def round_float(value: float, type: Type) -> float:
    """The nearest value of a float type, to even if two are as near; too large ones become infinite."""
    if type is t.COMPTIME_FLOAT or not math.isfinite(value) or value == 0:
        return value
    if type is t.F32:
        return _packed(value, "f")
    if type is t.F16:
        return _packed(value, "e")
    mantissa, low, high = _FORMATS[type]
    exponent = max(math.frexp(value)[1] - 1, low)
    unit = math.ldexp(1.0, exponent - mantissa)
    rounded = round(value / unit) * unit  # both steps are exact but for the rounding: unit is a power of two
    return math.copysign(math.inf, value) if abs(rounded) >= math.ldexp(1.0, high + 1) else rounded


def _packed(value: float, code: str) -> float:
    try:
        found: float = struct.unpack(code, struct.pack(code, value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return found


# mantissa bits, least and greatest exponent of normal numbers
_FORMATS: Final[dict[Type, tuple[int, int, int]]] = {t.BF16: (7, -126, 127), t.CB16: (9, -27, 36)}


def float_bits(value: float, type: Type) -> int:
    """The bits of a float in its type."""
    if type is t.F32:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    if type is t.F16:
        return int(struct.unpack("<H", struct.pack("<e", value))[0])
    if type is t.BF16:
        return int(struct.unpack("<I", struct.pack("<f", value))[0]) >> 16
    mantissa, low, high = _FORMATS[type]
    sign = 0x8000 if math.copysign(1.0, value) < 0 else 0
    top = (high - low + 2) << mantissa
    if math.isnan(value):
        return sign | top | 1 << (mantissa - 1)
    if math.isinf(value):
        return sign | top
    exponent = max(math.frexp(value)[1] - 1, low)
    scaled = int(abs(value) / math.ldexp(1.0, exponent - mantissa))
    if scaled < 1 << mantissa:
        return sign | scaled
    return sign | (exponent - low + 1) << mantissa | scaled - (1 << mantissa)


def float_of_bits(bits: int, type: Type) -> float:
    """The float that has these bits."""
    if type is t.F32:
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    if type is t.F16:
        return float(struct.unpack("<e", struct.pack("<H", bits))[0])
    if type is t.BF16:
        return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    mantissa, low, high = _FORMATS[type]
    exponent, fraction = (bits & 0x7FFF) >> mantissa, bits & ((1 << mantissa) - 1)
    if exponent == high - low + 2:
        size = math.nan if fraction else math.inf
    elif exponent == 0:
        size = math.ldexp(fraction, low - mantissa)
    else:
        size = math.ldexp(fraction + (1 << mantissa), exponent - 1 + low - mantissa)
    return -size if bits & 0x8000 else size


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
