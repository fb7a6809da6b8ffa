"""First values of variables, as bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._records import FIELD, pack_descriptor
from openwafer.csl.sema import _numbers as numbers
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import FunctionValue, Value


class NotInMemory(Exception):  # noqa: N818
    """A value has a part that no memory can hold; the text says which."""


def encode(
    value: Value, function_number: Callable[[FunctionValue], int]
) -> tuple[bytes, tuple[ir.Relocation, ...]]:
    """The bytes of a known value, little-endian, and the places in them where addresses of symbols go.

    Raises NotInMemory.
    """
    data = bytearray(value.type.bytes)
    relocations: list[ir.Relocation] = []
    _put(data, 0, value, relocations, function_number)
    return bytes(data), tuple(relocations)


def _put(
    data: bytearray,
    at: int,
    value: Value,
    relocations: list[ir.Relocation],
    function_number: Callable[[FunctionValue], int],
) -> None:
    type = value.type
    if isinstance(type, t.Array):
        if isinstance(value.data, np.ndarray):
            data[at : at + type.bytes] = _numbers(value.data, type.element)
            return
        for index, one in enumerate(value.data):
            _put(data, at + index * type.element.bytes, one, relocations, function_number)
    elif isinstance(type, t.Record) and type.packed:
        _put_packed(data, at, value, relocations, function_number)
    elif isinstance(type, t.Record):
        for offset, one in zip(type.offsets, value.data, strict=True):
            _put(data, at + offset, one, relocations, function_number)
    elif isinstance(type, t.Pointer):
        _put_address(data, at, value, relocations, function_number)
    elif t.is_dsd(type):
        descriptor: ir.Descriptor = value.data
        base = descriptor.base
        symbols = {base.symbol: 0} if isinstance(base, ir.Address) else {}
        data[at : at + type.bytes] = pack_descriptor(descriptor, symbols)
        if isinstance(base, ir.Address):
            relocations.append(ir.Relocation(at + FIELD["base"], base.symbol, base.offset))
    elif type is not t.VOID:
        data[at : at + type.bytes] = bits(value).to_bytes(type.bytes, "little")


def _put_packed(
    data: bytearray,
    at: int,
    value: Value,
    relocations: list[ir.Relocation],
    function_number: Callable[[FunctionValue], int],
) -> None:
    """Fields side by side; in a union all say the same bits."""
    type = value.type
    assert isinstance(type, t.Record)
    whole = int.from_bytes(data[at : at + type.bytes], "little")
    for place, one in enumerate(value.data[:1] if type.kind == "union" else value.data):
        width, offset = t.packed_bits(one.type), type.bit_offsets[place]
        part = bytearray(one.type.bytes)
        inner: list[ir.Relocation] = []
        _put(part, 0, one, inner, function_number)
        if inner and not type.on_bytes(place):
            raise NotInMemory("an address that does not begin with a byte")
        relocations += [ir.Relocation(at + offset // 8 + each.at, each.symbol, each.offset) for each in inner]
        whole |= (int.from_bytes(part, "little") & ((1 << width) - 1)) << offset
    data[at : at + type.bytes] = whole.to_bytes(type.bytes, "little")


def _put_address(
    data: bytearray,
    at: int,
    value: Value,
    relocations: list[ir.Relocation],
    function_number: Callable[[FunctionValue], int],
) -> None:
    target = value.data
    if isinstance(target, ir.Address):
        relocations.append(ir.Relocation(at, target.symbol, target.offset))
        return
    if isinstance(target, FunctionValue):
        target = function_number(target)
    if not isinstance(target, int):
        raise NotInMemory("a pointer to something that exists only at compile time")
    data[at : at + 2] = (target & 0xFFFF).to_bytes(2, "little")


def _numbers(array: np.ndarray, element: Type) -> bytes:
    if element is t.CB16:
        words = [numbers.float_bits(one, t.CB16) for one in array.ravel().tolist()]
        return np.array(words, dtype="<u2").tobytes()
    if element is t.BF16:
        return (np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


def bits(value: Value) -> int:
    """The bits of a known scalar, as an unsigned number."""
    type, data = value.type, value.data
    if type is t.DIRECTION:
        return t.DIRECTIONS.index(data)
    if t.is_float(type) and type is not t.COMPTIME_FLOAT:
        return numbers.float_bits(data, type)
    if type.ir is None:
        raise NotInMemory(f"{v.show(value)}, a value of type `{type}`")
    return int(data) & ((1 << 8 * type.bytes) - 1)
