"""What PE-IR's arithmetic gives, on values as the interpreter holds them.

Integers and pointers are Python ints in their type's range, bools 0 or 1, floats their bits, descriptors 32 bytes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir

Value = Any
"""An int, or bytes for a descriptor."""


class TrapError(Exception):
    """The program did what it must not: Trap of the PE ABI and its two numbers."""

    def __init__(self, trap: abi.Trap, first: int = 0, second: int = 0) -> None:
        super().__init__(trap.name)
        self.trap, self.first, self.second = trap, first, second


def value_of(kind: ir.Type, bits: int) -> Value:
    """A value from bits, as memory, arguments or constants hold them."""
    if kind == "bool":
        return int(bits & 0xFF != 0)
    return bits & ((1 << 8 * ir.BYTES[kind]) - 1) if kind in ir.FLOATS else ir.wrap(kind, bits)


def bits_of(kind: ir.Type, value: Value) -> int:
    """The bits of a value, without sign."""
    return int(value) & ((1 << 8 * ir.BYTES[kind]) - 1)


def compute(operation: ir.Arithmetic, kind: ir.Type, values: Sequence[Value]) -> Value:
    """The result of a Compute.

    Raises TrapError when an integer is divided by 0.
    """
    if kind in ir.FLOATS:
        return _compute_float(operation, kind, values)
    width = 8 * ir.BYTES[kind]
    first, second = values[0], values[-1]
    match operation:
        case "neg":
            result = -first
        case "not":
            result = ~first
        case "div" | "rem":
            if second == 0:
                raise TrapError(abi.Trap.DIVISION)
            quotient = abs(first) // abs(second) * (1 if (first < 0) == (second < 0) else -1)
            result = quotient if operation == "div" else first - quotient * second
        case "shl" | "shr":
            amount = min(bits_of(kind, second), width)
            result = first << amount if operation == "shl" else first >> amount
        case _:
            result = _WHOLE[operation](first, second)
    return ir.wrap(kind, result)


_WHOLE: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}


def _compute_float(operation: str, kind: ir.Type, values: Sequence[int]) -> int:
    """Python's double holds every sum, product and quotient closely enough that rounding it again is rounding once."""
    if operation == "neg":
        return values[0] ^ 1 << (8 * ir.BYTES[kind] - 1)
    first, second = (float(ir.decode(kind, value)) for value in values)
    match operation:
        case "add":
            result = first + second
        case "sub":
            result = first - second
        case "mul":
            result = first * second
        case _:
            result = _divide(first, second)
    return ir.encode(kind, math.nan if math.isnan(result) else result)


def _divide(first: float, second: float) -> float:
    if second != 0:
        return first / second
    if first == 0 or math.isnan(first):
        return math.nan
    return math.copysign(math.inf, first) * math.copysign(1.0, second)


_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def compare(comparison: ir.Comparison, kind: ir.Type, left: Value, right: Value) -> int:
    """The result of a Compare, 0 or 1."""
    if kind in ir.FLOATS:
        left, right = ir.decode(kind, left), ir.decode(kind, right)
    return int(_RELATIONS[comparison](left, right))


def convert(source: ir.Type, target: ir.Type, value: Value) -> Value:
    """The result of a Convert."""
    if source == target:
        return value
    if source in ir.FLOATS:
        return _from_float(source, target, value)
    if target == "bool":
        return int(value != 0)
    if target in ir.FLOATS:
        return ir.encode(target, _sticky(value))
    return ir.wrap(target, value)


def _sticky(value: int) -> float:
    """An integer as a double that rounds to any shorter float as the integer would."""
    size = abs(value)
    shift = max(0, size.bit_length() - 52)
    kept = size >> shift
    if kept << shift != size:
        kept |= 1  # there was more: no tie
    return math.copysign(math.ldexp(kept, shift), value)


_FRACTION_BITS: dict[ir.Type, int] = {"f16": 10, "bf16": 7, "cb16": 9}


def _from_float(source: ir.Type, target: ir.Type, bits: int) -> Value:
    number = float(ir.decode(source, bits))
    if target == "bool":
        return int(number != 0)
    if target in ir.FLOATS:
        if math.isnan(number):
            return _convert_nan(source, target, bits)
        return ir.encode(target, number)
    if math.isnan(number):
        return 0
    width = 8 * ir.BYTES[target]
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if target in ir.SIGNED else (0, (1 << width) - 1)
    return high if number >= high else low if number <= low else int(number)


def _convert_nan(source: ir.Type, target: ir.Type, bits: int) -> int:
    """To f32 with its payload, to 16 bits as the one NaN of the format; the sign stays."""
    if source == "f32":
        return int(bits >> 31 << 15) | ir.encode(target, math.nan)
    fraction = _FRACTION_BITS[source]
    if target == "f32":
        return bits >> 15 << 31 | 0x7F800000 | (bits & (1 << fraction) - 1) << 23 - fraction
    return bits & 0x8000 | ir.encode(target, math.nan)
