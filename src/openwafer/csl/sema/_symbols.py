"""Globals in memory: their names in PE-IR, first values, constants, and the order in which they lie."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from openwafer.csl._diagnostics import Note
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema._functions import Functions
from openwafer.csl.sema._memory import NotInMemory, encode
from openwafer.csl.sema._module import Global
from openwafer.csl.sema._scope import Failure, Frame
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import MemoryPlace, Value, ValuePlace
from openwafer.csl.syntax import ast


class Symbols(Functions):
    """What is in memory."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._symbols: dict[str, Global] = {}
        self._constants: dict[tuple[Type, bytes, tuple[ir.Relocation, ...]], str] = {}
        self._constant_variables: list[ir.Variable] = []
        self._unresolved: list[Global] = []
        self._placed = False
        self._naming: set[Global] = set()

    @abstractmethod
    def resolve(self, one: Global, span: Span) -> None:
        """Computes the value of a global."""

    def use(self, one: Global) -> None:
        """A variable that has to be in memory; its first value is computed in time."""
        if not one.used:
            one.used = True
            self._unresolved.append(one)

    def symbol(self, one: Global) -> str:
        """What PE-IR calls a global."""
        if one.symbol:
            return one.symbol
        declaration = one.declaration
        assert isinstance(declaration, ast.Variable)
        if one in self._naming:
            self.fail(declaration.span, f"the linkname of `{declaration.name}` depends on itself")
        self._naming.add(one)
        try:
            with self.within(Frame(one.module)):
                linked = self.linkname(declaration)
        finally:
            self._naming.discard(one)
        name = linked or (declaration.name if declaration.storage else one.module.prefix + declaration.name)
        unique, count = name, 0
        if declaration.storage != "extern":
            while unique in self._symbols:
                if declaration.storage == "export":
                    note = Note(self._symbols[unique].declaration.span, "the other one is here")
                    self.fail(
                        declaration.span,
                        f"two variables are exported as `{unique}`",
                        hint="give one a `linkname`",
                        notes=[note],
                    )
                count += 1
                unique = f"{name}.{count}"
            self._symbols[unique] = one
        one.symbol = unique
        return unique

    def _owned(self, place: ValuePlace) -> bool:
        return isinstance(place, OwnedPlace)

    def in_memory(self, place: ValuePlace, span: Span) -> MemoryPlace:
        """A value that has to have an address; a global const gets its own."""
        if isinstance(place, OwnedPlace):
            one = place.owner
            one.used = True
            self.initial[self.symbol(one)] = place.value
            return MemoryPlace(ir.Address(self.symbol(one)), place.type, True, True, place.name)
        return super().in_memory(place, span)

    def constant_value(self, address: ir.Address, type: Type, span: Span) -> Value | None:
        """What a const of the program has at an address, where it is all of that const."""
        one = self._symbols.get(address.symbol)
        if one is None or address.offset or one.value is None or one.value.type is not type:
            return None
        return (
            one.value if isinstance(one.declaration, ast.Variable) and one.declaration.kind != "var" else None
        )

    def constant(self, value: Value, span: Span, name: str = "") -> str:
        """The symbol of a constant of the program with this value; equal ones share it."""
        if self.comptime_only(value.type):
            self.fail(
                span,
                f"values of type `{value.type}` exist only at compile time",
                hint="give it a type that running code has",
            )
        data, relocations = self._encoded(value, span)
        key = (value.type, data, relocations)
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = f"{name or 'constant'}.const{len(self._constants)}"
            self._constant_variables.append(
                ir.Variable(
                    found, value.type.bytes, max(2, value.type.align), str(value.type), data, relocations
                )
            )
            self.initial[found] = value
        return found

    def _encoded(self, value: Value, span: Span) -> tuple[bytes, tuple[ir.Relocation, ...]]:
        try:
            return encode(value, lambda function: self.function_number(function, span))
        except NotInMemory as error:
            self.fail(span, f"memory cannot hold {error}")

    def pending(self) -> bool:
        """Whether something was asked for that is not made yet."""
        return super().pending() or bool(self._unresolved) or not self._placed

    def place_variables(self) -> None:
        """The unit's symbols: globals in the order of their declarations, then constants."""
        self._placed = True
        self.unit.symbols.clear()
        while self._unresolved:
            one = self._unresolved.pop()
            try:
                self.resolve(one, one.declaration.span)
            except Failure:
                continue
        for module in sorted(self.modules, key=lambda one: one.order):
            for one in module.globals.values():
                declaration = one.declaration
                if isinstance(declaration, ast.Variable) and one.used and one.value is not None:
                    try:
                        with self.within(Frame(module)):
                            self._place_variable(one, declaration, one.value)
                    except Failure:
                        continue
        for variable in self._constant_variables:
            self.unit.symbols[variable.name] = variable

    def finish_calls(self) -> None:
        """What calls through pointers lead to; what is extern must be exported by now."""
        super().finish_calls()
        for module in self.modules:
            for one in module.globals.values():
                if one.declaration.storage == "extern" and one.symbol and one.symbol not in self.unit.symbols:
                    self.report(
                        one.declaration.span,
                        f"nothing exports a variable `{one.symbol}`",
                        hint="add `export var` to a module of the program",
                    )

    def _place_variable(self, one: Global, declaration: ast.Variable, value: Value) -> None:
        align, exported = max(2, value.type.align), ""
        for attribute in declaration.attributes:
            if attribute.name == "align":
                align = max(align, self.alignment(attribute))
        if declaration.storage == "export" or any(a.name == "linkname" for a in declaration.attributes):
            exported = self.symbol(one)
        data, relocations = self._encoded(value, declaration.span)
        name = self.symbol(one)
        self.unit.symbols[name] = ir.Variable(
            name, value.type.bytes, align, str(value.type), data.rstrip(b"\0"), relocations, exported
        )


class OwnedPlace(ValuePlace):
    """A global const: it gets memory of its own where one needs its address."""

    __slots__ = ("owner",)

    def __init__(self, value: Value, type: Type, name: str, const: bool, owner: Global) -> None:
        super().__init__(value, type, name, const)
        object.__setattr__(self, "owner", owner)

    owner: Global
