"""Conversions: those that happen by themselves, @as, @bitcast, and the common type of several values."""

from __future__ import annotations

import math
from contextlib import suppress

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _memory as memory
from openwafer.csl.sema import _numbers as numbers
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._core import Core
from openwafer.csl.sema._memory import NotInMemory
from openwafer.csl.sema._reinterpret import from_bits, union_value
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value

_MADE_BY_BUILTINS = (
    *(t.COLOR, t.DATA_TASK_ID, t.LOCAL_TASK_ID, t.CONTROL_TASK_ID, t.INPUT_QUEUE, t.OUTPUT_QUEUE, t.UT_ID),
)


class Conversions(Core):
    """Values from one type to another."""

    def coerce(self, value: Value, type: Type, span: Span, what: str = "") -> Value:
        """The value as an assignment to something of `type` has it; an error if that needs @as."""
        source = value.type
        if source is type:
            return value
        found = self._coerced(value, source, type, span)
        if found is None:
            hint = ""
            if t.is_numeric(source) and t.is_numeric(type):
                hint = f"convert it with `@as({type}, ...)`"
            elif isinstance(source, t.FunctionType) and not isinstance(type, t.FunctionType):
                hint = "call it: `name()`"
            elif type in _MADE_BY_BUILTINS and t.is_integer(source):
                hint = f"make it with `@get_{type}(...)`"
            elif isinstance(type, t.Pointer) and isinstance(source, t.Array):
                hint = "write `&` before the array's name"
            self.fail(span, what, expected=f"`{type}`", found=self.describe(value), hint=hint)
        return found

    def _coerced(self, value: Value, source: Type, type: Type, span: Span) -> Value | None:
        if source is t.COMPTIME_INT:
            return self._from_comptime_int(value, type, span)
        if value.known and t.is_fixed_integer(source) and t.is_fixed_integer(type):
            return self._from_comptime_int(value, type, span)  # known, so whether it fits is known too
        if source is t.COMPTIME_FLOAT and t.is_float(type):
            return Value(type, numbers.round_float(value.data, type))
        if type is t.COMPTIME_STRUCT and isinstance(source, t.Record):
            return value
        if isinstance(type, t.Pointer):
            return self._to_pointer(value, source, type, span)
        if isinstance(source, t.Record):
            return self._from_struct(value, source, type, span)
        if isinstance(source, t.FunctionType) and isinstance(type, t.FunctionType):
            return self._to_function(value, source, type)
        if (
            self.options.dialect == "2.10"
            and isinstance(source, t.Primitive)
            and isinstance(type, t.Primitive)
        ):
            return self._widened(value, source, type, span)
        return None

    def _from_comptime_int(self, value: Value, type: Type, span: Span) -> Value | None:
        number: int = value.data
        if t.is_fixed_integer(type):
            try:
                return Value(type, numbers.check(number, type))
            except numbers.OutOfRange as error:
                self.fail(span, str(error), hint="use a wider type")
        if t.is_float(type):
            rounded = numbers.round_float(_as_float(number), type)
            return Value(type, rounded)
        return None

    def _to_pointer(self, value: Value, source: Type, type: t.Pointer, span: Span) -> Value | None:
        if isinstance(source, t.FunctionType) and isinstance(type.target, t.FunctionType):
            converted = self._to_function(value, source, type.target) if type.const else None
            return None if converted is None else Value(type, converted.data)
        if not isinstance(source, t.Pointer) or (source.const and not type.const):
            return None
        if type.target is t.ANYOPAQUE:
            same = True
        elif source.many == type.many:
            same = source.target is type.target or (
                self.options.dialect == "2.10" and not type.many and _one_of(type.target, source.target)
            )
        else:
            array = source.target
            same = type.many and isinstance(array, t.Array) and array.element is type.target
        return Value(type, value.data, value.known) if same else None

    def _to_function(self, value: Value, source: t.FunctionType, type: t.FunctionType) -> Value | None:
        if len(source.parameters) != len(type.parameters) or source.kind != type.kind:
            return None
        pairs = zip((*source.parameters, source.result), (*type.parameters, type.result), strict=True)
        if all(have is None or want is None or have is want for have, want in pairs):
            return Value(type if None not in type.parameters else source, value.data)
        return None

    def _from_struct(self, value: Value, source: t.Record, type: Type, span: Span) -> Value | None:
        """`.{...}` becomes a named struct with the same names, a tuple an array."""
        if source.definition is not None or not isinstance(value.data, tuple):
            return None
        if isinstance(type, t.Record) and type.names is not None:
            if source.names is None and source.types:
                return None
            given = dict(zip(source.names or (), value.data, strict=True))
            return self.struct_value(type, given, {}, span)
        if isinstance(type, t.Record) and type.names is None and len(type.types) == len(value.data):
            parts = [self.coerce(one, want, span) for one, want in zip(value.data, type.types, strict=True)]
            return v.struct(type, parts)
        if (
            isinstance(type, t.Array)
            and source.names is None
            and len(value.data) == type.count
            and value.known
        ):
            return v.array_value(
                type, self._payloads([self.coerce(one, type.element, span) for one in value.data], type)
            )
        return None

    def struct_value(
        self, type: t.Record, given: dict[str, Value], spans: dict[str, Span], span: Span
    ) -> Value:
        """A struct of named fields; an error where one is missing, unknown or of another type."""
        assert type.names is not None
        for name in given:
            if name not in type.names:
                hint = self.similar(name, type.names) or f"it has {', '.join(type.names)}"
                self.fail(spans.get(name, span), f"`{type}` has no field `{name}`", hint=hint)
        if type.kind == "union":
            return self._union_value(type, given, spans, span)
        parts = []
        for name, want in zip(type.names, type.types, strict=True):
            if name not in given:
                self.fail(span, f"the field `{name}` of `{type}` has no value", hint=f"add `.{name} = ...`")
            parts.append(self.coerce(given[name], want, spans.get(name, span), f"field `{name}`"))
        return v.struct(type, parts)

    def _union_value(
        self, type: t.Record, given: dict[str, Value], spans: dict[str, Span], span: Span
    ) -> Value:
        """A union of which one field is given; it lies in the frame where its bytes are not known."""
        if len(given) != 1:
            self.fail(span, f"`{type}` is a union", expected="one field", found=str(len(given)))
        ((name, one),) = given.items()
        at = type.index(name)
        assert at is not None
        value = self.coerce(one, type.types[at], spans.get(name, span), f"field `{name}`")
        if value.known:
            with suppress(NotInMemory):
                return union_value(type, at, value)
        return self.union_in_frame(type, at, value, span)

    def union_in_frame(self, type: t.Record, at: int, value: Value, span: Span) -> Value:
        """A union in the function's frame, of which field `at` was set."""
        raise NotImplementedError

    def _payloads(self, parts: list[Value], type: t.Array) -> list[object]:
        return [one.data for one in parts] if type.element.dtype is not None else list(parts)

    def _widened(self, value: Value, source: t.Primitive, type: t.Primitive, span: Span) -> Value | None:
        if source.kind != type.kind or source.kind not in ("integer", "float"):
            return None
        fits = (
            type.low <= source.low and source.high <= type.high if source.kind == "integer" else type is t.F32
        )
        return self.convert(value, type, span) if fits else None

    # --- @as ---

    def convert(self, value: Value, type: Type, span: Span) -> Value:
        """`@as(type, value)`: between integers, floats, bool and enums."""
        source = value.type
        if source is type:
            return value
        if isinstance(source, t.Enum) and isinstance(type, t.Enum):
            self.fail(
                span, expected="a number", found=f"`{source}`", hint=f"convert it to `{type.base}` in between"
            )
        if not _convertible(source) or not _convertible(type):
            if (isinstance(type, t.Pointer) and isinstance(source, t.Pointer | t.FunctionType)) or (
                isinstance(source, t.Record) or isinstance(type, t.FunctionType)
            ):
                return self.coerce(value, type, span)
            wrong = source if not _convertible(source) else type
            self.fail(
                span, "@as converts numbers, bool and enums", expected="a numeric type", found=f"`{wrong}`"
            )
        if value.known:
            return Value(type, self._converted(value.data, source, type, span))
        if self.comptime_only(type):
            self.require_known(value, span, f"a value of type `{type}`")
        code, target = source.ir, type.ir
        assert code is not None
        assert target is not None
        if code == target:
            return self.narrowed(v.code(type, value.data), span)
        builder = self.builder(span, "@as")
        number = builder.number()
        builder.emit(ir.Convert(number, code, target, value.data, self.location(span)))
        return self.narrowed(v.code(type, ir.Temporary(number)), span)

    def narrowed(self, value: Value, span: Span) -> Value:
        """A number of running code, with only the bits that a type such as `u3` has; others stay as they are."""
        type = value.type
        if not t.is_odd(type):
            return value
        assert isinstance(type, t.Primitive)
        code = type.ir
        assert code is not None
        builder, location = self.builder(span), self.location(span)

        def compute(operation: ir.Arithmetic, left: ir.Operand, by: int) -> ir.Operand:
            number = builder.number()
            builder.emit(ir.Compute(number, operation, code, (left, ir.Number(code, by)), location))
            return ir.Temporary(number)

        if not type.signed:
            return v.code(type, compute("and", value.data, type.high))
        shift = 8 * type.bytes - type.bits
        return v.code(type, compute("shr", compute("shl", value.data, shift), shift))

    def _converted(self, data: int | float | bool, source: Type, type: Type, span: Span) -> object:
        if type is t.BOOL:
            return bool(data != 0)
        if t.is_float(type):
            return numbers.round_float(_as_float(data), type)
        if t.is_float(source) and not math.isfinite(data):
            self.fail(span, f"{data} is no integer", hint="convert a finite number")
        number = int(data)
        if isinstance(type, t.Enum):
            if type.element(number) is None:
                values = ", ".join(f"{name} = {one}" for name, one in type.elements)
                self.fail(span, f"`{type}` has no element {number}", hint=f"it has {values}")
            return number
        if isinstance(type, t.Primitive) and type.bits:
            if t.is_integer(source) and source is not t.COMPTIME_INT:
                return numbers.wrap(number, type)  # keeps the low bits, as code does
            try:
                return numbers.check(number, type)
            except numbers.OutOfRange as error:
                self.fail(span, str(error), hint="use a wider type")
        return number

    # --- @bitcast ---

    def bitcast(self, value: Value, type: Type, span: Span) -> Value:
        """`@bitcast(type, value)`: the same bits, as another type of the same size."""
        source = value.type
        if source is type:
            return value
        if source is t.COMPTIME_INT:
            want = t.U16 if isinstance(type, t.Pointer) else _unsigned(type)
            if want is not None:
                return self.bitcast(Value(want, numbers.wrap(value.data, want)), type, span)
        if source.ir in (None, "void", "dsd") or type.ir in (None, "void", "dsd"):
            wrong = source if source.ir in (None, "void", "dsd") else type
            self.fail(span, "@bitcast", expected="a numeric or pointer type", found=f"`{wrong}`")
        if t.bits_of(source) != t.bits_of(type):
            self.fail(
                span,
                "@bitcast keeps the bits, so both types need the same size",
                expected=f"{t.bits_of(type)} bits for `{type}`",
                found=f"{t.bits_of(source)} bits of `{source}`",
                hint="convert the value with @as first",
            )
        if value.known and not isinstance(source, t.Pointer):
            return Value(type, from_bits(memory.bits(value), type))
        if isinstance(source, t.Pointer) and isinstance(type, t.Pointer):
            return Value(type, value.data, value.known)
        if value.known and isinstance(value.data, int):
            return Value(type, from_bits(value.data, type))
        if source.ir == type.ir:
            return v.code(type, self.operand(value, span))
        builder = self.builder(span, "@bitcast of an address")
        number = builder.number()
        code, target = source.ir, type.ir
        assert code is not None
        assert target is not None
        builder.emit(ir.Bitcast(number, code, target, self.operand(value, span), self.location(span)))
        return self.narrowed(v.code(type, ir.Temporary(number)), span)

    # --- common types ---

    def common(self, left: Type, right: Type) -> Type | None:
        """The type that both can become by themselves, None if there is none."""
        if left is right:
            return left
        for one, other in ((left, right), (right, left)):
            if one is t.COMPTIME_INT and (t.is_integer(other) or t.is_float(other)):
                return other
            if one is t.COMPTIME_FLOAT and t.is_float(other):
                return other
            if isinstance(one, t.Pointer) and isinstance(other, t.Pointer):
                wide = t.pointer(one.target, const=one.const or other.const, many=one.many)
                if other.target is one.target and other.many == one.many:
                    return wide
        if self.options.dialect == "2.10" and isinstance(left, t.Pointer) and isinstance(right, t.Pointer):
            return _common_pointer(left, right)
        if (
            self.options.dialect == "2.10"
            and isinstance(left, t.Primitive)
            and isinstance(right, t.Primitive)
        ):
            for low, high in ((left, right), (right, left)):
                if low.kind == high.kind == "integer" and high.low <= low.low and low.high <= high.high:
                    return high
                if low.kind == high.kind == "float" and high is t.F32:
                    return high
        return None


def _one_of(array: Type, element: Type) -> bool:
    """`[1]T` for T."""
    return isinstance(array, t.Array) and array.extents == (1,) and array.element is element


def _common_pointer(left: t.Pointer, right: t.Pointer) -> Type | None:
    """What pointers to arrays, or to an array and a single element, have in common (dialect 2.10)."""
    const = left.const or right.const
    for one, other in ((left, right), (right, left)):
        if _one_of(one.target, other.target) and not one.many and not other.many:
            return t.pointer(one.target, const=const)
        element = one.target if one.many else one.target.element if isinstance(one.target, t.Array) else None
        target = other.target
        if isinstance(target, t.Array) and len(target.extents) == 1 and target.element is element:
            return t.pointer(target.element, const=const, many=True)
    return None


def _as_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number)


def _convertible(type: Type) -> bool:
    return t.is_numeric(type) or isinstance(type, t.Enum)


def _unsigned(type: Type) -> t.Primitive | None:
    return {1: t.U8, 2: t.U16, 4: t.U32, 8: t.U64}.get(type.bytes) if type.ir is not None else None
