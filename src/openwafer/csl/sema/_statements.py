"""Statements: variables, assignments, and expressions on their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._loops import Loops
from openwafer.csl.sema._scope import POISON, Failure, StackVariable
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Cell, CellPlace, LocalPlace, MemoryPlace, Place, Value
from openwafer.csl.syntax import ast


class Statements(Loops):
    """What stands in a block."""

    def statement_handlers(self) -> dict[type, Callable[[Any, Type | None], Value]]:
        """What this part contributes to the table of handlers."""
        return {ast.Variable: self._variable, ast.Assign: self._assign}

    def execute(self, node: ast.Statement) -> None:
        """Does a statement; what an expression gives is dropped."""
        self._handlers[type(node)](node, t.VOID)

    def _variable(self, node: ast.Variable, expected: Type | None) -> Value:
        frame = self.frame
        if node.name in frame.scope.names:
            self.fail(
                node.span, f"`{node.name}` is already declared in this block", hint="choose another name"
            )
        for attribute in node.attributes:
            if attribute.name != "align":
                self.fail(attribute.span, f"`{attribute.name}` is for variables outside of functions")
        if node.comptime and not frame.comptime:
            with self.at_comptime():
                self._declare(node, True)
        else:
            self._declare(node, frame.comptime)
        return v.NOTHING

    def _declare(self, node: ast.Variable, comptime: bool) -> None:
        scope = self.frame.scope
        try:
            type = None if node.type is None else self.type_of(node.type)
            value = None if node.value is None else self.evaluate(node.value, type)
            if self.dead():
                return
            if value is not None and type is not None and node.value is not None:
                value = self.coerce(value, type, node.value.span, f"`{node.name}`")
        except Failure:
            scope.names[node.name] = POISON  # what uses it is not wrong on its own
            raise
        if value is None:
            if node.kind == "const":
                self.fail(node.span, f"the const `{node.name}` has no value", hint="add `= ...`")
            if type is None:
                self.fail(
                    node.span, f"`{node.name}` has neither a type nor a value", hint="write `var x: i16;`"
                )
        if comptime:
            if value is not None:
                assert node.value is not None
                self.require_known(value, node.value.span, f"the value of `{node.name}`")
            if node.kind == "const":
                assert value is not None
                scope.names[node.name] = value
                return
            kept = type if type is not None else value.type if value is not None else t.VOID
            cell = Cell(node.name, kept, v.zero(kept) if value is None else value, self.frame.control)
            scope.names[node.name] = CellPlace(cell, (), kept)
            return
        if node.kind == "const" or (value is not None and isinstance(value.type, t.Range)):
            assert value is not None
            scope.names[node.name] = self.snapshot(value, node.name, node.span)
            return
        kept = type if type is not None else value.type if value is not None else t.VOID
        scope.names[node.name] = self.new_variable(node.name, kept, value, node.span, node)

    def new_variable(
        self, name: str, type: Type, value: Value | None, span: Span, node: ast.Variable | None = None
    ) -> LocalPlace | StackVariable:
        """A variable of running code: in a register, or in the frame where it needs an address."""
        if self.comptime_only(type):
            hint = "write `comptime var`, or `const`"
            if type in (t.COMPTIME_INT, t.COMPTIME_FLOAT):
                hint = f"give it a type: `var {name}: {'i16' if type is t.COMPTIME_INT else 'f32'} = ...`"
            self.fail(span, f"`{name}` has type `{type}`, which exists only at compile time", hint=hint)
        if isinstance(type, t.Range):
            self.fail(span, "a range is no variable", hint="write it into the `for`")
        builder = self.builder(span, f"`{name}`")
        if t.is_aggregate(type) or name in self.frame.taken:
            align = type.align
            for attribute in node.attributes if node is not None else ():
                align = max(align, self.alignment(attribute))
            local = builder.local(name, "void", bytes=type.bytes, align=align)
            if value is not None:
                number = builder.number()
                builder.emit(ir.Frame(number, local, self.location(span)))
                self.fill(MemoryPlace(ir.Temporary(number), type, True, False, name), value, span)
            return StackVariable(local, type, False, name)
        code = type.ir
        assert code is not None, type
        local = builder.local(name, code)
        if value is None and (zero := v.zero(type)) is not None:
            value = zero
        if value is not None and code != "void":
            builder.emit(ir.Set(local, self.operand(value, span), self.location(span)))
        return LocalPlace(local, type)

    def alignment(self, attribute: ast.Attribute) -> int:
        """The bytes of `align(n)`."""
        span = attribute.value.span
        value = self.require_known(self.evaluate(attribute.value), span, "the alignment")
        if not t.is_integer(value.type):
            self.fail(span, "the alignment", expected="an integer", found=f"`{value.type}`")
        bytes: int = value.data
        if bytes < 1 or bytes & (bytes - 1) or bytes > 0x8000:
            self.fail(span, f"an alignment of {bytes} bytes", expected="a power of two up to 32768")
        return bytes

    def _assign(self, node: ast.Assign, expected: Type | None) -> Value:
        if node.operator == "=" and isinstance(node.target, ast.Name) and node.target.text == "_":
            self.evaluate(node.value)
            return v.NOTHING
        place = self.place(node.target)
        if node.operator == "=":
            wanted = None if place.type is t.COMPTIME_STRUCT else place.type
            value = self.evaluate(node.value, wanted)
        else:
            operator = node.operator[:-1]
            right = self.evaluate(node.value, place.type)
            left = self.load(place, node.target.span)
            value = self.apply(operator, left, right, node.span, node.target.span, node.value.span)
        if not self.dead():
            self._put(place, value, node)
        return v.NOTHING

    def _put(self, place: Place, value: Value, node: ast.Assign) -> None:
        if place.const:
            name = node.target.span.text
            hint = "it is a const, a parameter, or behind a const pointer; use a `var`"
            self.fail(node.target.span, f"`{name}` cannot be changed", hint=hint)
        self.store(place, value, node.value.span)
