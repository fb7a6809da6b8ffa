"""What expressions evaluate to, and where values are kept.

A `Value` has a type and is known (its payload is what the compiler works with) or is code (an operand of PE-IR). The payload
of a known value, by its type:

| type | payload |
|---|---|
| integers, comptime_int, enum, color, task ids, queues, ut_id, dsr types | int |
| floats, comptime_float | float, exactly representable in the type |
| bool | bool |
| comptime_string | bytes |
| direction | one of `_types.DIRECTIONS` |
| type | Type |
| function type | FunctionValue |
| imported_module | the module's instance |
| DSD types, fifo | ir.Descriptor |
| pointers | ir.Address (a variable of the program), int (an address), Reference (a variable of the compiler) |
| arrays of numbers, bool, ids | read-only NumPy array of the type's extents and `element.dtype` |
| other arrays | tuple of Values, row-major |
| struct | tuple of Values, in the order of the fields |
| range | (start, stop, step) as Values |
| void | None |

A struct or a range is known if all its fields are. A struct with some fields that are code is still such a tuple; a struct or
an array that lies in memory has its address as operand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._types import Type

if TYPE_CHECKING:
    from openwafer.csl.sema._module import ModuleInstance
    from openwafer.csl.syntax import ast


class Value:
    """A value of a type. Immutable, arrays too: who changes elements makes a copy first.

    `known`: `data` is a payload as in the table of this module, of which every part is known. Else `data` is the ir.Operand
    that has the value as code runs: of arrays and structs the address where they lie. A struct or range that is only partly
    known has a tuple of Values.
    """

    __slots__ = ("data", "known", "type")

    def __init__(self, type: Type, data: Any, known: bool = True) -> None:
        self.type = type
        self.data = data
        self.known = known

    def __repr__(self) -> str:
        return f"Value({self.type}, {self.data!r}, known={self.known})"


@dataclass(frozen=True, slots=True, eq=False)
class FunctionValue:
    """A function or task of a module's instance. The same function is always the same object."""

    declaration: ast.Function
    module: ModuleInstance

    @property
    def name(self) -> str:
        """As the program calls it."""
        return self.declaration.name


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A function, or a generic function for one choice of what it depends on, as PE-IR has it."""

    name: str
    """In PE-IR."""
    type: t.FunctionType
    """Without parameters that are known as it compiles."""
    exported: str = ""
    """`linkname`, or the name of an `export fn`."""


# --- making values ----------------------------------------------------------------------------------------

NOTHING: Final = Value(t.VOID, None)
"""The value of type void."""
TRUE: Final = Value(t.BOOL, True)
FALSE: Final = Value(t.BOOL, False)


def code(type: Type, operand: ir.Operand) -> Value:
    """What an operand has as code runs."""
    return Value(type, operand, False)


def comptime_int(number: int) -> Value:
    """A value of type comptime_int."""
    return Value(t.COMPTIME_INT, number)


def boolean(truth: bool) -> Value:
    """`true` or `false`."""
    return TRUE if truth else FALSE


def string(text: bytes | str) -> Value:
    """A comptime_string."""
    return Value(t.COMPTIME_STRING, text.encode() if isinstance(text, str) else text)


def type_value(type: Type) -> Value:
    """A type as a value."""
    return Value(t.TYPE, type)


def struct(type: t.Record, fields: Iterable[Value]) -> Value:
    """A struct of fields that already have the types of `type`."""
    fields = tuple(fields)
    return Value(type, fields, all(field.known for field in fields))


def anonymous(**fields: Value) -> Value:
    """`.{ .name = value, ... }`."""
    return struct(t.record(fields, (one.type for one in fields.values())), fields.values())


def tuple_of(*fields: Value) -> Value:
    """`.{ value, ... }`."""
    return struct(t.record(None, (one.type for one in fields)), fields)


def array_value(type: t.Array, elements: Any) -> Value:
    """A known array: from a NumPy array or numbers where the element type has a dtype, else from Values in a row."""
    if type.element.dtype is not None:
        data = np.array(elements, dtype=type.element.dtype).reshape(type.extents)
        data.flags.writeable = False
        return Value(type, data)
    return Value(type, tuple(elements))


def uniform(type: t.Array, element: Value) -> Value:
    """A known array of which every element is `element`; its memory is shared where NumPy can."""
    if type.element.dtype is not None:
        return Value(type, np.broadcast_to(np.array(element.data, dtype=type.element.dtype), type.extents))
    return Value(type, (element,) * type.count)


def range_value(element: t.Primitive, start: Value, stop: Value, step: Value) -> Value:
    """`@range(element, start, stop, step)`; all three have type `element`."""
    parts = (start, stop, step)
    return Value(t.range_of(element), parts, all(one.known for one in parts))


def zero(type: Type) -> Value | None:
    """The value whose bytes are 0, also for what is not initialised; None if the type has none."""
    match type:
        case t.Primitive():
            if type is t.VOID:
                return NOTHING
            if type is t.BOOL:
                return FALSE
            if type is t.DIRECTION:
                return Value(type, t.DIRECTIONS[0])
            if type.kind == "dsd":
                return Value(type, NO_DESCRIPTOR)
            if t.is_float(type):
                return Value(type, 0.0)
            return Value(type, 0) if type is t.COMPTIME_INT or type.ir is not None else None
        case t.Enum() | t.Pointer():
            return Value(type, 0)
        case t.Array():
            element = zero(type.element)
            return None if element is None else uniform(type, element)
        case t.Record():
            fields = [zero(one) for one in type.types]
            return None if None in fields else struct(type, (one for one in fields if one is not None))
    return None


NO_DESCRIPTOR: Final = ir.Descriptor("mem1d")
"""What a DSD variable holds that was not initialised: no elements."""


# --- reading values ---------------------------------------------------------------------------------------


def element(array: Value, index: int) -> Value:
    """An element of a known array, by its row-major index."""
    assert isinstance(array.type, t.Array)
    if isinstance(array.data, np.ndarray):
        return Value(array.type.element, array.data.item(index))
    found: Value = array.data[index]
    return found


def elements(array: Value) -> list[Value]:
    """All elements of a known array."""
    assert isinstance(array.type, t.Array)
    if isinstance(array.data, np.ndarray):
        return [Value(array.type.element, one) for one in array.data.ravel().tolist()]
    return list(array.data)


def fields(value: Value) -> dict[str, Value]:
    """The fields of a struct that does not lie in memory, by name; those of a tuple by their number as text."""
    assert isinstance(value.type, t.Record)
    assert isinstance(value.data, tuple)
    names = value.type.names if value.type.names is not None else map(str, range(len(value.data)))
    return dict(zip(names, value.data, strict=True))


def show(value: Value) -> str:
    """A value as @comptime_print and messages show it."""
    if not value.known:
        return f"a value of type {value.type} that only running code has"
    data = value.data
    match value.type:
        case t.Array():
            return f"{value.type} {{{', '.join(show(one) for one in elements(value))}}}"
        case t.Record(names=None):
            return f".{{{', '.join(map(show, data))}}}"
        case t.Record():
            return f".{{{', '.join(f'.{name} = {show(one)}' for name, one in fields(value).items())}}}"
        case t.Enum(name=name):
            return f"{name or 'enum'}.{value.type.element(data) or data}"
        case t.Range():
            return f"range from {show(data[0])} to {show(data[1])}"
        case t.FunctionType():
            return str(data.name)
        case t.Pointer():
            return (
                f"&{data.symbol}" + (f"+{data.offset}" if data.offset else "")
                if isinstance(data, ir.Address)
                else "pointer"
            )
    if isinstance(data, bytes):
        return data.decode("utf-8", "replace")
    if isinstance(data, bool):
        return "true" if data else "false"
    if value.type is t.VOID:
        return "{}"
    return str(data)


# --- places -----------------------------------------------------------------------------------------------


class Cell:
    """A variable that the compiler itself keeps: `comptime var`, and every variable of code that runs at comptime."""

    __slots__ = ("control", "name", "type", "value")

    def __init__(self, name: str, type: Type, value: Value | None, control: object = None) -> None:
        self.name = name
        self.type = type
        self.value = value
        """None before the first assignment."""
        self.control = control
        """Under which branches and loops of running code it was declared; only there it may change."""


@dataclass(frozen=True, slots=True)
class CellPlace:
    """A part of a Cell; `path` holds field numbers and row-major indices from outside to inside."""

    cell: Cell
    path: tuple[int, ...]
    type: Type
    const: bool = False


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A register local of the function."""

    name: str
    type: Type
    const: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlace:
    """Memory of the PE. `address` is an ir.Address (a symbol and bytes), a Number of type u16, or a Temporary."""

    address: ir.Operand
    type: Type
    known: bool
    """It lies in an object for sure, so code need not check the address."""
    const: bool = False
    name: str = ""
    """What messages call the variable."""
    bit: int | None = None
    """A field of a packed struct without bytes of its own: where it begins, counted from the address."""


@dataclass(frozen=True, slots=True)
class ValuePlace:
    """Something that has no place: a const that nobody has put into memory yet, or the result of an expression."""

    value: Value
    type: Type
    name: str = ""
    const: bool = True


Place: TypeAlias = CellPlace | LocalPlace | MemoryPlace | ValuePlace


@dataclass(frozen=True, slots=True)
class Reference:
    """The payload of a pointer to a variable of the compiler."""

    place: CellPlace | ValuePlace
