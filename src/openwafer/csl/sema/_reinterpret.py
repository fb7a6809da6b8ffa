"""Values from bits, and unions: each field of a known union is what the bytes of the one that was set mean in its type."""

from __future__ import annotations

from openwafer.csl.sema import _memory as memory
from openwafer.csl.sema import _numbers as numbers
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._memory import NotInMemory
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import FunctionValue, Value


def from_bits(bits: int, type: Type) -> object:
    """What a scalar type's values hold for these bits."""
    if t.is_float(type):
        return numbers.float_of_bits(bits, type)
    if type is t.BOOL:
        return bool(bits & 1)
    if type is t.DIRECTION:
        return t.DIRECTIONS[bits % len(t.DIRECTIONS)]
    if isinstance(type, t.Enum):
        return numbers.wrap(bits, type.base)
    if isinstance(type, t.Primitive) and type.kind == "integer":
        return numbers.wrap(bits, type)
    return bits


def union_value(type: t.Record, at: int, value: Value) -> Value:
    """A known union of which field `at` was set.

    Raises NotInMemory where the bytes are not known: addresses, and what exists only at compile time.
    """
    data, relocations = memory.encode(value, _no_function)
    if relocations:
        raise NotInMemory("the address of a variable")
    data = data.ljust(type.bytes, b"\0")
    parts = [value if number == at else _decoded(one, data) for number, one in enumerate(type.types)]
    return v.struct(type, parts)


def _no_function(function: FunctionValue) -> int:
    raise NotInMemory(f"a pointer to the function `{function.name}`")


def _decoded(type: Type, data: bytes) -> Value:
    """What the first bytes mean in a type."""
    if isinstance(type, t.Array):
        size = type.element.bytes
        parts = [_decoded(type.element, data[at * size :]) for at in range(type.count)]
        return v.array_value(type, [one.data for one in parts] if type.element.dtype is not None else parts)
    if isinstance(type, t.Record) and type.packed:
        whole = int.from_bytes(data[: type.bytes], "little")
        fields = []
        for offset, one in zip(type.bit_offsets, type.types, strict=True):
            part = (whole >> offset) & ((1 << t.packed_bits(one)) - 1)
            fields.append(_decoded(one, part.to_bytes(one.bytes, "little")))
        return v.struct(type, fields)
    if isinstance(type, t.Record):
        return v.struct(
            type, [_decoded(one, data[at:]) for at, one in zip(type.offsets, type.types, strict=True)]
        )
    if type.ir in (None, "void", "dsd"):
        raise NotInMemory(f"a value of type `{type}`")
    return Value(type, from_bits(int.from_bytes(data[: type.bytes], "little"), type))
