"""The types of CSL: interned, so that two types are the same exactly if they are one object.

Primitive types are names of this module's table (`NAMED`); the others come from `array`, `pointer`, `function`, `record`,
`enumeration` and `range_of`. `str(type)` is the type as CSL writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir

Kind: TypeAlias = Literal[
    "void",
    "bool",
    "integer",
    "float",
    "comptime",
    "color",
    "id",
    "queue",
    "thread",
    "direction",
    "dsr",
    "dsd",
    "module",
    "opaque",
]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Type:
    """A type. Its size and alignment are in bytes and hold where values of it can be in memory (`comptime_only` False)."""

    bytes: int = field(init=False, default=0)
    align: int = field(init=False, default=2)
    comptime_only: bool = field(init=False, default=False)
    """All values are comptime-known; nothing of this type is ever in memory."""
    ir: ir.Type | None = field(init=False, default=None)
    """What a scalar becomes in PE-IR; None for what lives only in memory, or only at comptime."""
    dtype: np.dtype[Any] | None = field(init=False, default=None)
    """Arrays of this type are NumPy arrays of it at comptime; None: tuples of values."""


@dataclass(eq=False, slots=True)
class Primitive(Type):
    """A type with a name of its own."""

    name: str
    kind: Kind
    signed: bool = False
    bits: int = 0
    """Of fixed-width integers and floats."""

    def __str__(self) -> str:
        return self.name

    @property
    def low(self) -> int:
        """The least value of a fixed-width integer type."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The greatest."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1


@dataclass(eq=False, slots=True)
class Array(Type):
    """`[N]T`, `[N, M]T`; the elements lie in row-major order."""

    extents: tuple[int, ...]
    element: Type
    count: int

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.extents))}]{self.element}"


@dataclass(eq=False, slots=True)
class Pointer(Type):
    """`*T`, `*const T`; with `many` `[*]T`, `[*]const T`."""

    target: Type
    const: bool
    many: bool

    def __str__(self) -> str:
        return f"{'[*]' if self.many else '*'}{'const ' if self.const else ''}{self.target}"


@dataclass(eq=False, slots=True)
class FunctionType(Type):
    """`fn(i16) void`, `task() void`. A generic function has None where the type depends on the call."""

    kind: Literal["fn", "task"]
    parameters: tuple[Type | None, ...]
    result: Type | None

    def __str__(self) -> str:
        parameters = ", ".join("anytype" if one is None else str(one) for one in self.parameters)
        return f"{self.kind}({parameters}) {'anytype' if self.result is None else self.result}"


@dataclass(eq=False, slots=True)
class Record(Type):
    """A struct or union. `names` None: a tuple. `definition` None: an anonymous struct, equal to all that look the same."""

    names: tuple[str, ...] | None
    types: tuple[Type, ...]
    definition: Span | None
    kind: Literal["struct", "union"]
    name: str
    """What messages call it; empty if it has no name."""
    offsets: tuple[int, ...] = ()
    packed: bool = False
    """Fields lie side by side, bit by bit from the lowest on."""
    bit_offsets: tuple[int, ...] = ()
    """Of packed ones."""
    bits: int = 0
    """Of packed ones: those of the integer that stands behind all fields."""

    def on_bytes(self, at: int) -> bool:
        """Whether a field has bytes of its own; those of packed types may share them."""
        one = self.types[at]
        return not self.packed or (self.bit_offsets[at] % 8 == 0 and packed_bits(one) == 8 * one.bytes)

    def __str__(self) -> str:
        if self.name:
            return self.name
        if self.names is None:
            return f"struct {{{', '.join(map(str, self.types))}}}"
        fields = ", ".join(f"{name}: {one}" for name, one in zip(self.names, self.types, strict=True))
        return f"{self.kind} {{{fields}}}"

    def index(self, name: str) -> int | None:
        """The place of a field among the fields, None if there is no such field."""
        return self.names.index(name) if self.names is not None and name in self.names else None


@dataclass(eq=False, slots=True)
class Enum(Type):
    """`enum(u16) { red, white = 1 }`."""

    base: Primitive
    elements: tuple[tuple[str, int], ...]
    definition: Span
    name: str

    def __str__(self) -> str:
        return self.name or f"enum({self.base})"

    def value(self, name: str) -> int | None:
        """The number of an element, None if there is no such element."""
        return next((number for one, number in self.elements if one == name), None)

    def element(self, number: int) -> str | None:
        """The element of a number."""
        return next((one for one, value in self.elements if value == number), None)


@dataclass(eq=False, slots=True)
class Range(Type):
    """The type of `@range(T, ...)`: numbers of T, one after the other."""

    element: Primitive

    def __str__(self) -> str:
        return f"range of {self.element}"


# --- primitive types --------------------------------------------------------------------------------------


def _primitive(name: str, kind: Kind, code: ir.Type | None = None, dtype: str | None = None) -> Primitive:
    made = Primitive(name, kind)
    made.ir = code
    made.comptime_only = code is None
    if code is not None:
        made.bytes = 0 if code == "void" else ir.BYTES[code]
        made.align = min(max(made.bytes, 1), 4) if code != "dsd" else 4
        made.bits = 8 * made.bytes
        made.signed = kind == "float" or code.startswith("i")
    made.dtype = None if dtype is None else np.dtype(dtype)
    return made


VOID: Final = _primitive("void", "void", "void")
BOOL: Final = _primitive("bool", "bool", "bool", "bool")
I8, U8 = _primitive("i8", "integer", "i8", "i1"), _primitive("u8", "integer", "u8", "u1")
I16, U16 = _primitive("i16", "integer", "i16", "i2"), _primitive("u16", "integer", "u16", "u2")
I32, U32 = _primitive("i32", "integer", "i32", "i4"), _primitive("u32", "integer", "u32", "u4")
I64, U64 = _primitive("i64", "integer", "i64", "i8"), _primitive("u64", "integer", "u64", "u8")
F16, F32 = _primitive("f16", "float", "f16", "f2"), _primitive("f32", "float", "f32", "f4")
BF16, CB16 = _primitive("bf16", "float", "bf16", "f4"), _primitive("cb16", "float", "cb16", "f4")
"""Arrays of bf16 and cb16 are float32 arrays at comptime, of values that the type has."""
COMPTIME_INT: Final = _primitive("comptime_int", "comptime")
COMPTIME_FLOAT: Final = _primitive("comptime_float", "comptime", None, "f8")
COMPTIME_STRING: Final = _primitive("comptime_string", "comptime")
COMPTIME_STRUCT: Final = _primitive("comptime_struct", "comptime")
TYPE: Final = _primitive("type", "comptime")
MODULE: Final = _primitive("imported_module", "module")
COLOR: Final = _primitive("color", "color", "u16", "u2")
DIRECTION: Final = _primitive("direction", "direction", "u16")
DATA_TASK_ID: Final = _primitive("data_task_id", "id", "u16", "u2")
LOCAL_TASK_ID: Final = _primitive("local_task_id", "id", "u16", "u2")
CONTROL_TASK_ID: Final = _primitive("control_task_id", "id", "u16", "u2")
INPUT_QUEUE: Final = _primitive("input_queue", "queue", "u16", "u2")
OUTPUT_QUEUE: Final = _primitive("output_queue", "queue", "u16", "u2")
UT_ID: Final = _primitive("ut_id", "thread", "u16", "u2")
DSR_DEST, DSR_SRC0, DSR_SRC1 = (_primitive(f"dsr_{name}", "dsr") for name in ("dest", "src0", "src1"))
DSR_FIFO_DEST, DSR_FIFO_SRC1 = (_primitive(f"dsr_fifo_{name}", "dsr") for name in ("dest", "src1"))
XDSR: Final = _primitive("xdsr", "dsr")
SR: Final = _primitive("sr", "dsr")
MEM1D_DSD, MEM4D_DSD = (_primitive(f"{name}_dsd", "dsd", "dsd") for name in ("mem1d", "mem4d"))
FABIN_DSD, FABOUT_DSD = (_primitive(f"{name}_dsd", "dsd", "dsd") for name in ("fabin", "fabout"))
FIFO: Final = _primitive("fifo", "dsd", "dsd")
CIRCBUF_DSD: Final = _primitive("circbuf_dsd", "dsd", "dsd")
ANYOPAQUE: Final = _primitive("anyopaque", "opaque")

NAMED: Final[dict[str, Primitive]] = {
    one.name: one
    for one in (
        *(VOID, BOOL, I8, U8, I16, U16, I32, U32, I64, U64, F16, F32, BF16, CB16),
        *(COMPTIME_INT, COMPTIME_FLOAT, COMPTIME_STRING, COMPTIME_STRUCT, TYPE, MODULE),
        *(COLOR, DIRECTION, DATA_TASK_ID, LOCAL_TASK_ID, CONTROL_TASK_ID, INPUT_QUEUE, OUTPUT_QUEUE, UT_ID),
        *(
            DSR_DEST,
            DSR_SRC0,
            DSR_SRC1,
            DSR_FIFO_DEST,
            DSR_FIFO_SRC1,
            XDSR,
            SR,
            MEM1D_DSD,
            MEM4D_DSD,
            FABIN_DSD,
            FABOUT_DSD,
            FIFO,
            CIRCBUF_DSD,
            ANYOPAQUE,
        ),
    )
}
"""Types that a program writes as a name."""

SINCE_2_10: Final = frozenset(("sr", "circbuf_dsd", "anyopaque"))
"""Those of them that dialect 1.4 does not have."""

HALVES: Final = {"f16": F16, "bf16": BF16, "cb16": CB16}
DIRECTIONS: Final = ("WEST", "EAST", "SOUTH", "NORTH", "RAMP")
"""Values of type direction, in the order of the numbers that stand for them as code runs."""

# --- composed types ---------------------------------------------------------------------------------------

_INTEGERS: dict[str, Primitive] = {}
_INTERNED: WeakValueDictionary[tuple[Any, ...], Type] = WeakValueDictionary()


def array(extents: Iterable[int], element: Type) -> Array:
    """`[extents]element`; the element is no array."""
    extents = tuple(extents)
    key = ("array", extents, element)
    made = _INTERNED.get(key)
    if made is None:
        count = 1
        for extent in extents:
            count *= extent
        made = Array(extents, element, count)
        made.bytes, made.align = count * element.bytes, element.align
        made.comptime_only = element.comptime_only
        _INTERNED[key] = made
    assert isinstance(made, Array)
    return made


def pointer(target: Type, *, const: bool = False, many: bool = False) -> Pointer:
    """`*target`, `[*]target`, each with or without `const`."""
    key = ("pointer", target, const, many)
    made = _INTERNED.get(key)
    if made is None:
        made = Pointer(target, const, many)
        made.bytes, made.ir = 2, "ptr"
        _INTERNED[key] = made
    assert isinstance(made, Pointer)
    return made


def function(
    kind: Literal["fn", "task"], parameters: Iterable[Type | None], result: Type | None
) -> FunctionType:
    """`fn(parameters) result`; None stands for what each call decides anew."""
    parameters = tuple(parameters)
    key = ("function", kind, parameters, result)
    made = _INTERNED.get(key)
    if made is None:
        made = FunctionType(kind, parameters, result)
        made.comptime_only = True
        _INTERNED[key] = made
    assert isinstance(made, FunctionType)
    return made


def integer(signed: bool, bits: int) -> Primitive:
    """`i3`, `u24`: an integer of 1 to 64 bits. In memory it takes the bytes of the next type with a width of its own."""
    name = f"{'i' if signed else 'u'}{bits}"
    known = NAMED.get(name) or _INTEGERS.get(name)
    if known is not None:
        return known
    width = next(one for one in (8, 16, 32, 64) if one >= bits)
    storage = NAMED[f"{name[0]}{width}"]
    made = Primitive(name, "integer", signed, bits)
    made.bytes, made.align, made.ir, made.dtype = storage.bytes, storage.align, storage.ir, storage.dtype
    made.comptime_only = False
    _INTEGERS[name] = made
    return made


def record(
    names: Iterable[str] | None,
    types: Iterable[Type],
    *,
    definition: Span | None = None,
    kind: Literal["struct", "union"] = "struct",
    name: str = "",
    packed: bool = False,
) -> Record:
    """A struct type; named ones are told apart by the place of their definition. Fields of packed ones lie side by side."""
    names, types = None if names is None else tuple(names), tuple(types)
    key = ("record", names, types, definition, kind, packed)
    made = _INTERNED.get(key)
    if made is None:
        made = Record(names, types, definition, kind, name)
        made.comptime_only = any(one.comptime_only for one in types)
        offsets, end, align = [], 0, 2
        made.packed = packed
        for one in types:
            step = 1 if packed else 8 * one.align
            start = 0 if kind == "union" else -(-end // step) * step
            offsets.append(start)
            size = packed_bits(one) if packed else 8 * one.bytes
            end, align = max(end, start + size), max(align, step // 8)
        made.offsets = tuple(one // 8 for one in offsets)
        made.bytes, made.align = -(-end // (8 * align)) * align, align
        if packed:
            made.bit_offsets, made.bits = tuple(offsets), end
        _INTERNED[key] = made
    assert isinstance(made, Record)
    if name and not made.name:
        made.name = name
    return made


def enumeration(
    base: Primitive, elements: Iterable[tuple[str, int]], definition: Span, name: str = ""
) -> Enum:
    """An enum type; the same elements at the same place of the text make the same type."""
    elements = tuple(elements)
    key = ("enum", base, elements, definition)
    made = _INTERNED.get(key)
    if made is None:
        made = Enum(base, elements, definition, name)
        made.bytes, made.align, made.ir, made.dtype = base.bytes, base.align, base.ir, base.dtype
        _INTERNED[key] = made
    assert isinstance(made, Enum)
    return made


def range_of(element: Primitive) -> Range:
    """The type of ranges over `element`."""
    key = ("range", element)
    made = _INTERNED.get(key)
    if made is None:
        made = Range(element)
        _INTERNED[key] = made
    assert isinstance(made, Range)
    return made


# --- questions --------------------------------------------------------------------------------------------


def is_integer(one: Type) -> bool:
    """A fixed-width integer, or comptime_int."""
    return one is COMPTIME_INT or (isinstance(one, Primitive) and one.kind == "integer")


def is_fixed_integer(one: Type) -> bool:
    """A fixed-width integer."""
    return isinstance(one, Primitive) and one.kind == "integer"


def is_odd(one: Type) -> bool:
    """An integer whose width is not that of its place in memory, such as `u3`."""
    return isinstance(one, Primitive) and one.kind == "integer" and one.bits != 8 * one.bytes


def bits_of(one: Type) -> int:
    """The width of a scalar."""
    return one.bits if is_odd(one) and isinstance(one, Primitive) else 8 * one.bytes


def packed_bits(one: Type) -> int:
    """The width of a field of a packed type."""
    match one:
        case Primitive():
            return 1 if one is BOOL else one.bits
        case Enum():
            return one.base.bits
        case Record(packed=True):
            return one.bits
    return 8 * one.bytes


def is_float(one: Type) -> bool:
    """A float of fixed width, or comptime_float."""
    return one is COMPTIME_FLOAT or (isinstance(one, Primitive) and one.kind == "float")


def is_numeric(one: Type) -> bool:
    """What @as converts between: integers, floats and bool."""
    return one is BOOL or is_integer(one) or is_float(one)


def is_dsd(one: Type) -> bool:
    """A data structure descriptor."""
    return isinstance(one, Primitive) and one.kind == "dsd"


def is_aggregate(one: Type) -> bool:
    """What lives in memory as code runs: arrays and structs."""
    return isinstance(one, Array | Record)
