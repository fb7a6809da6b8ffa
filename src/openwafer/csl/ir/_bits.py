"""Numbers as bits: how literals, memory and constants hold a value of each type."""

from __future__ import annotations

import math
import struct

from openwafer.csl.ir._ir import BYTES, Type

SIGNED: frozenset[Type] = frozenset(("i8", "i16", "i32", "i64"))
INTEGERS: frozenset[Type] = SIGNED | frozenset(("u8", "u16", "u32", "u64"))
HALVES: frozenset[Type] = frozenset(("f16", "bf16", "cb16"))
FLOATS: frozenset[Type] = HALVES | frozenset(("f32",))

SINGLE_NAN = 0x7FC00000
"""What arithmetic gives for every NaN, so that results do not depend on the host's processor."""

_CB16_FRACTION = 9
_CB16_BIAS = 42  # "Type System in CSL" gives 6.0 as 0b0101100100000000


def wrap(kind: Type, value: int) -> int:
    """`value` modulo the width of an integer type (or `ptr`, `bool` by its lowest bit), in the type's range."""
    if kind == "bool":
        return value & 1
    width = 8 * BYTES[kind]
    value &= (1 << width) - 1
    return value - (1 << width) if kind in SIGNED and value >> (width - 1) else value


def round_single(value: float) -> float:
    """The nearest float32, ties to even; overflow gives an infinity."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def single_bits(value: float) -> int:
    """The bits of the nearest float32; NaN as SINGLE_NAN."""
    if math.isnan(value):
        return SINGLE_NAN
    return int.from_bytes(struct.pack("<f", round_single(value)), "little")


def single(bits: int) -> float:
    """The value of a float32's bits."""
    return float(struct.unpack("<f", bits.to_bytes(4, "little"))[0])


def encode(kind: Type, value: int | float) -> int:
    """The bits of a value, without sign: integers in two's complement, floats in their own format.

    Floats that a format cannot hold are rounded to nearest even.
    """
    match kind:
        case "f32":
            return single_bits(float(value))
        case "f16":
            return _encode_small(float(value), 10, 15, 0x1F)
        case "bf16":
            return _encode_small(float(value), 7, 127, 0xFF)
        case "cb16":
            return _encode_small(float(value), _CB16_FRACTION, _CB16_BIAS, 0x3F)
        case _:
            return int(value) & ((1 << 8 * BYTES[kind]) - 1)


def decode(kind: Type, bits: int) -> int | float:
    """The value that `encode` encodes."""
    match kind:
        case "f32":
            return single(bits)
        case "f16":
            return _decode_small(bits, 10, 15, 0x1F)
        case "bf16":
            return _decode_small(bits, 7, 127, 0xFF)
        case "cb16":
            return _decode_small(bits, _CB16_FRACTION, _CB16_BIAS, 0x3F)
        case _:
            return wrap(kind, bits)


def _encode_small(value: float, fraction: int, bias: int, top: int) -> int:
    sign = (math.copysign(1.0, value) < 0) << 15
    if math.isnan(value):
        return sign | top << fraction | 1 << (fraction - 1)
    if math.isinf(value):
        return sign | top << fraction
    if value == 0:
        return sign
    exponent = max(math.frexp(abs(value))[1] - 1, 1 - bias)
    # Python rounds ties to even; a carry out of the fraction runs into the exponent, as it should
    steps = round(math.ldexp(abs(value), fraction - exponent))
    return sign | min((exponent + bias - 1 << fraction) + steps, top << fraction)


def _decode_small(bits: int, fraction: int, bias: int, top: int) -> float:
    sign = -1.0 if bits & 0x8000 else 1.0
    exponent, rest = bits >> fraction & top, bits & ((1 << fraction) - 1)
    if exponent == top:
        return math.nan if rest else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(rest, 1 - bias - fraction)
    return sign * math.ldexp(rest | 1 << fraction, exponent - bias - fraction)
