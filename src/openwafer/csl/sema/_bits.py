"""Fields of packed structs that share bytes with others: read and written through the 16-bit words that they lie in."""

from __future__ import annotations

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _memory as memory
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._convert import Conversions
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import FunctionValue, MemoryPlace, Value

_WORD = 16
_MASK = 0xFFFF


class BitFields(Conversions):
    """Code for places that have a `bit`."""

    def load_bits(self, place: MemoryPlace, span: Span) -> Value:
        """What such a field holds; of a nested struct or union a copy."""
        type = place.type
        if isinstance(type, t.Record):
            raw = self._raw(place, self._backing(type, span), span)
            copy = self.in_frame(type, "packed", span)
            self._write(MemoryPlace(copy.address, type, True, bit=0), raw, type.bits, span)
            return v.code(type, copy.address)
        width = t.packed_bits(type)
        number = type.base if isinstance(type, t.Enum) else type
        raw = self._raw(place, t.integer(False, width), span)
        if isinstance(number, t.Primitive) and number.kind == "integer" and number.signed:
            left = 8 * raw.type.bytes - width
            signed = self.bitcast(raw, t.integer(True, 8 * raw.type.bytes), span)
            raw = self._shifted(self._shifted(signed, "shl", left, span), "shr", left, span)
        if isinstance(type, t.Pointer) or t.is_float(type):
            return self.bitcast(raw, type, span)
        return self.convert(raw, type, span)

    def store_bits(self, place: MemoryPlace, value: Value, span: Span) -> None:
        """Puts a value of the field's type there; its neighbours stay."""
        type = place.type
        if isinstance(type, t.Record):
            backing = self._backing(type, span)
            source = MemoryPlace(self.operand(value, span), type, True, bit=0)
            self._write(place, self._raw(source, backing, span), type.bits, span)
            return
        width = t.packed_bits(type)
        storage = _storage(width)
        if isinstance(type, t.Pointer) or t.is_float(type):
            raw = self.bitcast(value, storage, span)
        elif value.known:
            raw = Value(storage, memory.bits(value) & ((1 << width) - 1))
        else:
            raw = self.convert(value, storage, span)
        self._write(place, raw, width, span)

    def fill_packed(self, place: MemoryPlace, value: Value, span: Span) -> None:
        """Stores a known packed struct or union word by word."""
        try:
            data, relocations = memory.encode(value, lambda function: self.function_number(function, span))
        except memory.NotInMemory as error:
            self.fail(span, f"running code cannot hold {error}")
        addresses = {one.at: ir.Address(one.symbol, one.offset) for one in relocations}
        location = self.location(span)
        for at in range(0, len(data), 2):
            address = self.moved(place.address, at, span)
            word = ir.Number("u16", int.from_bytes(data[at : at + 2], "little"))
            self.builder(span).emit(ir.Store("u16", address, word, place.known, location))
        for at, target in addresses.items():
            address = self.moved(place.address, at, span)
            self.builder(span).emit(ir.Store("ptr", address, target, place.known, location))

    def _backing(self, type: t.Record, span: Span) -> t.Primitive:
        if type.bits > 64:
            self.fail(
                span,
                f"`{type}` has {type.bits} bits and shares bytes with other fields, at most 64 can",
                hint="let it begin with a byte of its own: put it first, or behind fields of 8 or 16 bits",
            )
        return t.integer(False, type.bits)

    def _raw(self, place: MemoryPlace, type: t.Primitive, span: Span) -> Value:
        """The bits of a field as an unsigned number, of a type with the width of its storage."""
        assert place.bit is not None
        storage, found = _storage(type.bits), None
        first, last = place.bit // _WORD, (place.bit + type.bits - 1) // _WORD
        for word in range(first, last + 1):
            part = self.convert(self._word(place, word, span), storage, span)
            up = _WORD * word - place.bit
            part = self._shifted(part, "shl" if up > 0 else "shr", abs(up), span)
            found = part if found is None else self._joined("or", found, part, span)
        assert found is not None
        if type.bits < storage.bits:
            found = self._joined("and", found, Value(storage, (1 << type.bits) - 1), span)
        return found

    def _write(self, place: MemoryPlace, raw: Value, width: int, span: Span) -> None:
        assert place.bit is not None
        for word in range(place.bit // _WORD, (place.bit + width - 1) // _WORD + 1):
            down = _WORD * word - place.bit
            mask = (((1 << width) - 1) >> down if down >= 0 else ((1 << width) - 1) << -down) & _MASK
            part = self._shifted(raw, "shr" if down > 0 else "shl", abs(down), span)
            part = Value(t.U16, part.data & _MASK) if part.known else self.convert(part, t.U16, span)
            if mask != _MASK:
                part = self._joined("and", part, Value(t.U16, mask), span)
                kept = self._joined("and", self._word(place, word, span), Value(t.U16, _MASK - mask), span)
                part = self._joined("or", kept, part, span)
            address = self.moved(place.address, 2 * word, span)
            store = ir.Store("u16", address, self.operand(part, span), place.known, self.location(span))
            self.builder(span).emit(store)

    def _word(self, place: MemoryPlace, word: int, span: Span) -> Value:
        address, builder = self.moved(place.address, 2 * word, span), self.builder(span)
        number = builder.number()
        builder.emit(ir.Load(number, "u16", address, place.known, self.location(span)))
        return v.code(t.U16, ir.Temporary(number))

    def _shifted(self, value: Value, how: ir.Arithmetic, by: int, span: Span) -> Value:
        if by == 0:
            return value
        if value.known:
            return Value(value.type, value.data << by if how == "shl" else value.data >> by)
        return self._joined(how, value, Value(value.type, by), span)

    def _joined(self, operation: ir.Arithmetic, left: Value, right: Value, span: Span) -> Value:
        code, builder = left.type.ir, self.builder(span)
        assert code is not None
        if left.known and right.known:
            return Value(left.type, left.data & right.data if operation == "and" else left.data | right.data)
        operands = self.operand(left, span), self.operand(right, span)
        number = builder.number()
        builder.emit(ir.Compute(number, operation, code, operands, self.location(span)))
        return v.code(left.type, ir.Temporary(number))

    # --- what places are made of, in the class below ---

    def in_frame(self, type: Type, name: str, span: Span) -> MemoryPlace:
        """A new variable in the function's frame."""
        raise NotImplementedError

    def moved(self, address: ir.Operand, bytes: int, span: Span) -> ir.Operand:
        """An address plus bytes."""
        raise NotImplementedError

    def function_number(self, function: FunctionValue, span: Span) -> int:
        """What stands for a function in memory."""
        raise NotImplementedError


def _storage(width: int) -> t.Primitive:
    """The unsigned type that code computes a field of so many bits in."""
    return t.U16 if width <= 16 else t.U32 if width <= 32 else t.U64
