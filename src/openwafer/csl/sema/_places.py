"""Places: what names, fields, elements and pointers stand for; loading from them and storing into them."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import numpy as np

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._bits import BitFields
from openwafer.csl.sema._memory import NotInMemory
from openwafer.csl.sema._module import Global
from openwafer.csl.sema._reinterpret import union_value
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import (
    CellPlace,
    FunctionValue,
    LocalPlace,
    MemoryPlace,
    Place,
    Reference,
    Value,
    ValuePlace,
)

FEW = 8  # elements that are stored one by one where a loop or a copy would be as long


class Places(BitFields):
    """Reads and writes of all kinds of places."""

    # --- reading ---

    def load(self, place: Place, span: Span) -> Value:
        """What a place holds; of arrays and structs in memory the address, so it changes when they do."""
        match place:
            case ValuePlace():
                return place.value
            case CellPlace():
                return self._cell_value(place, span)
            case LocalPlace():
                if self.frame.comptime:
                    self.not_known(place.name.partition(".")[0], span)
                builder = self.builder(span)
                number = builder.number()
                builder.emit(ir.Get(number, place.name, self.location(span)))
                return v.code(place.type, ir.Temporary(number))
        if self.frame.comptime:
            self.not_known(place.name, span)
        if place.bit is not None:
            return self.load_bits(place, span)
        if t.is_aggregate(place.type):
            return v.code(place.type, place.address)
        if place.type is t.VOID:
            return v.NOTHING
        code = place.type.ir
        assert code is not None, place.type
        builder = self.builder(span)
        number = builder.number()
        builder.emit(ir.Load(number, code, place.address, place.known, self.location(span)))
        return v.code(place.type, ir.Temporary(number))

    def not_known(self, name: str, span: Span) -> NoReturn:
        """An error: the compiler needs the value of a variable of running code."""
        called = f"`{name}`" if name else "this"
        self.fail(
            span,
            f"{called} is a variable of running code, so its value is not known at compile time",
            hint="use a const, a param or a comptime var",
        )

    def _cell_value(self, place: CellPlace, span: Span) -> Value:
        value = place.cell.value
        if value is None:
            self.fail(span, f"`{place.cell.name}` is used before it has a value", hint="assign to it first")
        for step in place.path:
            value = v.element(value, step) if isinstance(value.type, t.Array) else value.data[step]
        if isinstance(value.type, t.Array) and isinstance(value.data, np.ndarray):
            value.data.flags.writeable = False  # from now on shared: the next write to an element copies
        return value

    def parts(self, value: Value, span: Span) -> dict[str, Value]:
        """The fields of a struct by name or number, loaded if it lies in memory."""
        type = value.type
        assert isinstance(type, t.Record)
        if isinstance(value.data, tuple):
            return v.fields(value)
        place = MemoryPlace(value.data, type, True, True)
        names = type.names or tuple(map(str, range(len(type.types))))
        return {name: self.load(self.field(place, at, span), span) for at, name in enumerate(names)}

    # --- parts ---

    def field(self, place: Place, at: int, span: Span) -> Place:
        """A field of a struct, by its number."""
        type = place.type
        assert isinstance(type, t.Record)
        want = type.types[at]
        match place:
            case ValuePlace():
                if isinstance(place.value.data, tuple):
                    one: Value = place.value.data[at]
                    return ValuePlace(one, one.type, place.name)
                return self.field(MemoryPlace(place.value.data, type, True, True, place.name), at, span)
            case CellPlace():
                return CellPlace(place.cell, (*place.path, at), want, place.const)
            case MemoryPlace():
                if place.bit is not None or not type.on_bytes(at):
                    return replace(place, type=want, bit=(place.bit or 0) + type.bit_offsets[at])
                address = self.moved(place.address, type.offsets[at], span)
                return MemoryPlace(address, want, place.known, place.const, place.name)
        raise AssertionError(place)

    def moved(self, address: ir.Operand, bytes: int, span: Span) -> ir.Operand:
        """An address plus bytes."""
        if bytes == 0:
            return address
        if isinstance(address, ir.Address):
            return ir.Address(address.symbol, address.offset + bytes)
        if isinstance(address, ir.Number):
            return ir.Number(address.type, int(address.value) + bytes)
        builder = self.builder(span)
        number = builder.number()
        builder.emit(ir.Offset(number, address, bytes, self.location(span)))
        return ir.Temporary(number)

    def element(self, place: Place, indices: list[Value], spans: list[Span], span: Span) -> Place:
        """An element of an array, one index per dimension."""
        type = place.type
        assert isinstance(type, t.Array)
        if len(indices) != len(type.extents):
            count = len(type.extents)
            self.fail(
                span, f"`{type}` has {count} dimension{'s' * (count != 1)}", expected=f"{count} indices",
                found=f"{len(indices)}", hint="write `a[i, j]`, one index for each",
            )  # fmt: skip
        at, all_known = 0, True
        for index, extent, where in zip(indices, type.extents, spans, strict=True):
            self._check_index(
                index, extent, type, place.name if not isinstance(place, CellPlace) else "", where
            )
            all_known = all_known and index.known
            if all_known:
                at = at * extent + int(index.data)
        if isinstance(place, ValuePlace):
            if not place.value.known:
                place = MemoryPlace(place.value.data, type, True, True, place.name)
            elif all_known:
                one = v.element(place.value, at)
                return ValuePlace(one, one.type, place.name)
            else:
                place = self.in_memory(place, span)
        if isinstance(place, CellPlace):
            if all_known:
                return CellPlace(place.cell, (*place.path, at), type.element, place.const)
            if self.frame.comptime:
                self.fail(span, "the index must be known at compile time")
            place = self.in_memory(ValuePlace(self.load(place, span), type, place.cell.name), span)
        assert isinstance(place, MemoryPlace)
        if all_known:
            address = self.moved(place.address, at * type.element.bytes, span)
            return MemoryPlace(address, type.element, place.known, place.const, place.name)
        if not type.count:
            self.fail(span, f"`{type}` has no elements", hint="give it a size")
        address, stride = place.address, type.bytes
        for index, extent, where in zip(indices, type.extents, spans, strict=True):
            stride //= extent
            address = self.indexed(address, index, extent, stride, place.name, where)
        return MemoryPlace(address, type.element, place.known, place.const, place.name)

    def indexed(
        self, base: ir.Operand, index: Value, count: int | None, bytes: int, name: str, span: Span
    ) -> ir.Operand:
        """The address of an element by an index."""
        if index.known:
            return self.moved(base, int(index.data) * bytes, span)
        if index.type not in (t.I16, t.U16, t.I32, t.U32):
            wide = {t.I8: t.I16, t.U8: t.U16, t.I64: t.I32, t.U64: t.U32}[index.type]  # type: ignore[index]
            index = self.convert(index, wide, span)
        builder = self.builder(span)
        number = builder.number()
        code = index.type.ir
        assert code is not None
        builder.emit(ir.Element(number, base, code, index.data, count, bytes, name, self.location(span)))
        return ir.Temporary(number)

    def _check_index(self, index: Value, extent: int, type: Type, name: str, span: Span) -> None:
        if not t.is_integer(index.type):
            self.fail(
                span, "an index", expected="an integer", found=f"`{index.type}`", hint="convert it with @as"
            )
        if index.known and not 0 <= index.data < extent:
            called = f"`{name}`, which is `{type}`" if name else f"`{type}`"
            hint = f"use 0 to {extent - 1}" if extent else "it has no elements"
            self.fail(span, f"index {index.data} is out of bounds for {called}", hint=hint)

    # --- addresses ---

    def address(self, place: Place, span: Span) -> Value:
        """`&place`."""
        if self.comptime_only(place.type):
            self.fail(
                span, f"values of type `{place.type}` are never in memory, so there are no pointers to them"
            )
        type = t.pointer(place.type, const=place.const)
        match place:
            case CellPlace():
                return Value(type, Reference(place))
            case LocalPlace():
                raise AssertionError("a variable whose address is taken lies in the frame")
            case ValuePlace():
                if self.frame.comptime and not self._owned(place):
                    return Value(type, Reference(place))
                place = self.in_memory(place, span)
        if place.bit is not None:
            name = f"`{place.name}`" if place.name else "a packed struct"
            self.fail(
                span,
                f"this field of {name} shares its bytes with others, so it has no address",
                hint="copy it into a variable, and take the address of that",
            )
        if isinstance(place.address, ir.Address):
            return Value(type, place.address)
        if isinstance(place.address, ir.Number):
            return Value(type, int(place.address.value))
        return v.code(type, place.address)

    def _owned(self, place: ValuePlace) -> bool:
        return False

    def in_memory(self, place: ValuePlace, span: Span) -> MemoryPlace:
        """A value that has to have an address: a known one becomes a constant of the program, others go into the frame."""
        if place.value.known:
            symbol = self.constant(place.value, span, place.name)
            return MemoryPlace(ir.Address(symbol), place.type, True, True, place.name)
        if t.is_aggregate(place.type) and not isinstance(place.value.data, tuple):
            return MemoryPlace(place.value.data, place.type, True, True, place.name)
        made = self.in_frame(place.type, place.name or "value", span)
        self.store(made, place.value, span)
        return MemoryPlace(made.address, made.type, True, True, place.name)

    def in_frame(self, type: Type, name: str, span: Span) -> MemoryPlace:
        """A new variable in the function's frame."""
        builder = self.builder(span)
        local = builder.local(name, "void", bytes=type.bytes, align=type.align)
        number = builder.number()
        builder.emit(ir.Frame(number, local, self.location(span)))
        return MemoryPlace(ir.Temporary(number), type, True, False, name)

    def union_in_frame(self, type: t.Record, at: int, value: Value, span: Span) -> Value:
        """A union in the function's frame, of which field `at` was set."""
        made = self.in_frame(type, "union", span)
        field = self.field(made, at, span)
        assert isinstance(field, MemoryPlace)
        self.fill(field, value, span)
        return v.code(type, made.address)

    def constant(self, value: Value, span: Span, name: str = "") -> str:
        """The symbol of a constant of the program with this value; equal ones share it."""
        raise NotImplementedError

    def pointed(self, pointer: Value, span: Span) -> Place:
        """`pointer.*`."""
        type = pointer.type
        if not isinstance(type, t.Pointer):
            self.fail(span, "`.*` follows a pointer", expected="a pointer", found=f"`{type}`")
        if type.many:
            self.fail(span, f"`{type}` does not say how many elements there are", hint="use `[index]`")
        if type.target is t.ANYOPAQUE:
            self.fail(
                span, f"`{type}` does not say what it points to", hint="cast it first: @ptrcast(*T, pointer)"
            )
        return self._target(pointer, type, span)

    def _target(self, pointer: Value, type: t.Pointer, span: Span) -> Place:
        data = pointer.data
        if isinstance(data, Reference):
            place = data.place
            if isinstance(place, CellPlace):
                return CellPlace(place.cell, place.path, place.type, type.const)
            return place
        if isinstance(data, FunctionValue):
            return ValuePlace(Value(type.target, data), type.target)
        if self.frame.comptime and isinstance(data, ir.Address):
            constant = self.constant_value(data, type.target, span)
            if constant is not None:
                return ValuePlace(constant, type.target)
        known = pointer.known and isinstance(data, ir.Address)
        operand = ir.Number("ptr", data) if pointer.known and isinstance(data, int) else data
        return MemoryPlace(operand, type.target, known, type.const)

    def constant_value(self, address: ir.Address, type: Type, span: Span) -> Value | None:
        """What a const of the program has at an address, where it is all of that const."""
        return None

    # --- writing ---

    def store(self, place: Place, value: Value, span: Span) -> None:
        """Puts a value, converted to the place's type, into a place."""
        if place.const or isinstance(place, ValuePlace):
            name = place.cell.name if isinstance(place, CellPlace) else place.name
            self.fail(
                span,
                f"`{name}` cannot be changed" if name else "this cannot be changed",
                hint="it is a const, a parameter, or behind a const pointer; use a `var`",
            )
        if place.type is not t.COMPTIME_STRUCT:
            value = self.coerce(value, place.type, span)
        match place:
            case CellPlace():
                self._store_cell(place, value, span)
            case LocalPlace():
                self.builder(span, f"an assignment to `{place.name}`").emit(
                    ir.Set(place.name, self.operand(value, span), self.location(span))
                )
            case MemoryPlace():
                if self.frame.comptime:
                    name = f"`{place.name}`" if place.name else "this"
                    self.fail(
                        span,
                        f"{name} is a variable of running code and cannot be changed at compile time",
                        hint="give it a first value, or assign to it in a function",
                    )
                self.fill(place, value, span)

    def _store_cell(self, place: CellPlace, value: Value, span: Span) -> None:
        cell = place.cell
        if not self.frame.comptime and cell.control is not self.frame.control:
            self.fail(
                span,
                f"the comptime variable `{cell.name}` would change with what running code does",
                hint="make it a `var`, or change it outside of branches and loops of running code",
            )
        self.require_known(value, span, f"what the comptime variable `{cell.name}` holds")
        if not place.path:
            cell.value = value
            return
        if cell.value is None:
            zero = v.zero(cell.type)
            if zero is None:
                self.fail(span, f"`{cell.name}` has no value yet", hint="assign to the whole of it first")
            cell.value = zero
        try:
            cell.value = _replaced(cell.value, place.path, value)
        except NotInMemory as error:
            self.fail(span, f"a union that the compiler keeps cannot hold {error}", hint="use a global `var`")

    def fill(self, place: MemoryPlace, value: Value, span: Span) -> None:
        """Stores a value of the place's own type into memory."""
        type = place.type
        if place.bit is not None:
            self.store_bits(place, value, span)
            return
        if not t.is_aggregate(type):
            if type is t.VOID:
                return
            code = type.ir
            assert code is not None
            operand = self.operand(value, span)
            self.builder(span).emit(ir.Store(code, place.address, operand, place.known, self.location(span)))
        elif not value.known and not isinstance(value.data, tuple):
            if value.data != place.address:
                self.builder(span).emit(ir.Copy(place.address, value.data, type.bytes, self.location(span)))
        elif isinstance(type, t.Record) and type.kind == "union":
            if type.packed and value.known:
                self.fill_packed(place, value, span)
                return
            at = max(range(len(type.types)), key=lambda one: type.types[one].bytes)
            field = self.field(place, at, span)
            assert isinstance(field, MemoryPlace)
            self.fill(field, value.data[at], span)
        elif isinstance(type, t.Record) and type.packed and value.known:
            self.fill_packed(place, value, span)
        elif isinstance(type, t.Record):
            for at, part in enumerate([self._apart(one, span) for one in value.data]):
                field = self.field(place, at, span)
                assert isinstance(field, MemoryPlace)
                self.fill(field, part, span)
        elif isinstance(type, t.Array):
            self._fill_array(place, type, value, span)

    def _apart(self, part: Value, span: Span) -> Value:
        """A part of a struct literal; what lies in memory is copied, as it may be what the literal is stored into."""
        if not t.is_aggregate(part.type) or part.known or isinstance(part.data, tuple):
            return part
        made = self.in_frame(part.type, "part", span)
        self.fill(made, part, span)
        return v.code(part.type, made.address)

    def _fill_array(self, place: MemoryPlace, type: t.Array, value: Value, span: Span) -> None:
        whole = value.data
        if type.count > FEW and isinstance(whole, np.ndarray) and (whole == whole.flat[0]).all():
            self._fill_uniform(place, type, v.element(value, 0), span)
        elif type.count > FEW:
            source = ir.Address(self.constant(value, span))
            self.builder(span).emit(ir.Copy(place.address, source, type.bytes, self.location(span)))
        else:
            for at, one in enumerate(v.elements(value)):
                address = self.moved(place.address, at * type.element.bytes, span)
                self.fill(MemoryPlace(address, type.element, place.known), one, span)

    def repeated(self, type: t.Array, element: Value, span: Span) -> Value:
        """An array of running code of which every element is the same."""
        made = self.in_frame(type, "array", span)
        self._fill_uniform(made, type, element, span)
        return v.code(type, made.address)

    def _fill_uniform(self, place: MemoryPlace, type: t.Array, one: Value, span: Span) -> None:
        """A loop that stores the same into every element."""
        builder, location = self.builder(span), self.location(span)
        if builder.block is None:
            return
        counter = builder.local("fill", "u32" if type.count > t.U16.high else "u16")
        code = builder.locals[counter].type
        builder.emit(ir.Set(counter, ir.Number(code, 0), location))
        body = builder.new_block()
        builder.jump(body)
        builder.block = body
        at, where, after, more = (builder.number() for _ in range(4))
        builder.emit(ir.Get(at, counter, location))
        builder.emit(
            ir.Element(
                where,
                place.address,
                code,
                ir.Temporary(at),
                type.count,
                type.element.bytes,
                place.name,
                location,
            )
        )
        self.fill(MemoryPlace(ir.Temporary(where), type.element, place.known), one, span)
        operands = (ir.Temporary(at), ir.Number(code, 1))
        builder.emit(ir.Compute(after, "add", code, operands, location))
        builder.emit(ir.Set(counter, ir.Temporary(after), location))
        builder.emit(ir.Compare(more, "lt", code, ir.Temporary(after), ir.Number(code, type.count), location))
        exit = builder.new_block()
        builder.branch(ir.Temporary(more), body, exit)
        builder.block = exit

    # --- operands ---

    def operand(self, value: Value, span: Span) -> ir.Operand:
        """A value for PE-IR; the address of an array or struct."""
        type = value.type
        if t.is_aggregate(type):
            if value.known or isinstance(value.data, tuple):
                return self.in_memory(ValuePlace(value, type), span).address
            operand: ir.Operand = value.data
            return operand
        if not value.known:
            operand = value.data
            return operand
        if self.comptime_only(type):
            self.fail(
                span,
                f"values of type `{type}` exist only at compile time",
                hint="give it a type that running code has: `@as(i16, ...)`, `var x: i16 = ...`",
            )
        if isinstance(type, t.Pointer):
            return self._pointer_operand(value, span)
        if t.is_dsd(type):
            operand = value.data
            return operand
        code = type.ir
        assert code is not None
        if type is t.DIRECTION:
            return ir.Number(code, t.DIRECTIONS.index(value.data))
        return ir.Number(code, int(value.data) if type is t.BOOL else value.data)

    def _pointer_operand(self, value: Value, span: Span) -> ir.Operand:
        data = value.data
        if isinstance(data, Reference):
            if isinstance(data.place, ValuePlace):
                return self.in_memory(data.place, span).address
            self.fail(span, f"`{data.place.cell.name}` exists only at compile time, so it has no address")
        if isinstance(data, FunctionValue):
            return ir.Number("ptr", self.function_number(data, span))
        if isinstance(data, int):
            return ir.Number("ptr", data)
        operand: ir.Operand = data
        return operand

    def mark(self, one: Global) -> None:
        """A global that has to be in memory."""
        one.used = True


def _replaced(value: Value, path: tuple[int, ...], new: Value) -> Value:
    """A value with one part exchanged."""
    at, rest = path[0], path[1:]
    type = value.type
    if isinstance(type, t.Array) and isinstance(value.data, np.ndarray):
        data = value.data
        if not data.flags.writeable or data.base is not None:
            data = np.array(data)
        data.flat[at] = new.data
        return Value(type, data)
    parts = list(value.data)
    parts[at] = _replaced(parts[at], rest, new) if rest else new
    if isinstance(type, t.Record) and type.kind == "union":
        return union_value(type, at, parts[at])
    if isinstance(type, t.Record) and type.names is not None and type.definition is None:
        type = t.record(type.names, (one.type for one in parts))
    return Value(type, tuple(parts))
