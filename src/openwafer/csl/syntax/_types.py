"""Types: what may follow the `:` of a declaration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from openwafer.csl._source import Span
from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax._cursor import Cursor
from openwafer.csl.syntax._tokens import Token


class TypeParser(Cursor, ABC):
    """Parses types; expressions are for a class below this one."""

    @abstractmethod
    def expression(self, minimum: int = 1) -> ast.Expression:
        """An expression of operators that bind at least as tightly as `minimum`."""

    @abstractmethod
    def postfix(self, base: ast.Expression, start: int, *, literals: bool) -> ast.Expression:
        """`base` with the calls, indices and members behind it, and with `literals` also `{ ... }`."""

    def type_(self) -> ast.Expression:
        """A type. It never takes a `{ ... }` behind it: in `fn f() T { ... }` that is the body."""
        self.enter()
        start = self.token.start
        match self.kind:
            case "*":
                self.advance()
                const = self.accept("const")
                target = self.type_()
                found: ast.Expression = ast.PointerType(self.span(start), False, const, target)
            case "[":
                found = self._array_type(start)
            case "fn" | "task":
                found = self._function_type(start)
            case _:
                found = self.postfix(self._type_atom(start), start, literals=False)
        self.nesting -= 1
        return found

    def _array_type(self, start: int) -> ast.Expression:
        opened = self.advance()
        if self.kind == "*":
            self.advance()
            self.expect("]", "a pointer to many is written `[*]T`", opened)
            const = self.accept("const")
            return ast.PointerType(self.span(start), True, const, self.type_at("the type behind `[*]`"))
        if self.kind == "]":
            self.fail("the number of elements", "an array's length is part of its type: `[4]f32`", opened)
        extents = self.items("]", opened, self.expression)
        element = self.type_at("the type of an element", "an array is written `[3]i16 {1, 2, 3}`")
        return ast.ArrayType(self.span(start), extents, element)

    def _function_type(self, start: int) -> ast.Expression:
        kind: Literal["fn", "task"] = "fn" if self.advance().kind == "fn" else "task"
        if self.kind == "name":
            self.fail("`(`", "functions are declared between the declarations, not inside others")
        opened = self.expect("(")
        parameters = self.items(")", opened, self.parameter_of_type)
        result = self.type_at("the type of the result", "`void` if the function returns nothing")
        return ast.FunctionType(self.span(start), kind, parameters, result)

    def type_at(self, expected: str, hint: str = "") -> ast.Expression:
        """A type; where there is none, the error says what was expected."""
        if self.kind in ("*", "[", "fn", "task", "name", "builtin", "(", "struct", "enum", "union", "extern"):
            return self.type_()
        self.fail(expected, hint)

    def _type_atom(self, start: int) -> ast.Expression:
        match self.kind:
            case "name":
                if self.at_structure():
                    return self.structure()
                text = self.advance().text
                return ast.Name(self.span(start), text)
            case "builtin":
                return self.builtin()
            case "(":
                return self.grouped()
            case "struct" | "union" | "extern":
                return self.structure()
            case "enum":
                return self.enumeration()
        self.fail("a type")

    def grouped(self) -> ast.Expression:
        """`( expression )`, which leaves no trace in the tree."""
        opened = self.advance()
        inner = self.expression()
        if self.kind == "=":
            self.fail("`)`", "`=` assigns, and only in a statement; compare with `==`", opened)
        self.expect(")", opened=opened)
        return inner

    def builtin(self) -> ast.Expression:
        """`@name( ... )`."""
        token = self.advance()
        if self.kind != "(":
            self.fail(f"`(` after `{token.text}`", f"a builtin is called: `{token.text}(...)`")
        arguments = self.items(")", self.advance(), self.expression)
        return ast.Builtin(self.span(token.start), token.text[1:], arguments)

    def parameter_of_type(self) -> ast.Parameter:
        """A parameter where names are of no use: `T`, `name: T`, `anytype`."""
        if self.kind == "comptime" or self.ahead().kind == ":":
            return self.parameter()
        start = self.token.start
        type_ = None if self.accept("anytype") else self.type_at("the type of a parameter")
        return ast.Parameter(self.span(start), None, type_)

    def parameter(self) -> ast.Parameter:
        """`name: T`, `comptime name: T`, `name: anytype`."""
        start = self.token.start
        comptime = self.accept("comptime")
        first = self.token
        name = self.name("a parameter")
        if self.kind != ":":
            hint = f"write the type behind the name: `{name}: i16`"
            if self.kind == "name":
                hint = f"the name comes first: `{self.token.text}: {first.text}`"
            self.fail("`:` and a type", hint)
        self.advance()
        type_ = None if self.accept("anytype") else self.type_at("the type of the parameter")
        return ast.Parameter(self.span(start), name, type_, comptime)

    def at_structure(self) -> bool:
        """Whether `packed struct` or `packed union` begins here; `packed` alone is a name."""
        return self.token.text == "packed" and self.ahead().kind in ("struct", "union")

    def structure(self) -> ast.Expression:
        """`struct { ... }` and what 2.10 has beside it."""
        first = self.token
        layout: Literal["", "packed", "extern"] = ""
        if first.text == "packed" or first.kind == "extern":
            layout = "packed" if first.text == "packed" else "extern"
            self.advance()
        kind: Literal["struct", "union"] = "union" if self.kind == "union" else "struct"
        if not self.accept(kind):
            self.fail("`struct` or `union`")
        if layout or kind == "union":
            self.needs_dialect(
                Span(self.source, first.start, first.end), f"`{layout} {kind}`".replace("` ", "`")
            )
        if self.kind == "name":
            name = self.token.text
            self.fail("`{`", f"a type gets its name from a constant: `const {name} = {kind} {{ ... }};`")
        opened = self.expect("{")
        fields = self.items("}", opened, lambda: self._field_type(kind, opened))
        return ast.StructType(self.span(first.start), kind, layout, fields)

    def _field_type(self, kind: str, opened: Token) -> ast.FieldType:
        start = self.token.start
        name = self.name("a field")
        self.expect(":", f"a field is written `{name}: i16`", opened)
        type_ = self.type_at("the type of the field")
        if self.kind == "=":
            self.fail("`,` or `}`", f"the fields of a {kind} have no defaults", opened)
        if self.kind == ";":
            self.fail("`,` or `}`", "fields are separated by commas", opened)
        return ast.FieldType(self.span(start), name, type_)

    def enumeration(self) -> ast.Expression:
        """`enum(u16) { a, b = 1 }`."""
        start = self.advance().start
        type_ = None
        if self.kind == "(":
            opened = self.advance()
            type_ = self.type_at("the type of the values")
            self.expect(")", opened=opened)
        elif self.kind == "name":
            name = self.token.text
            self.fail(
                "`(` or `{`", f"a type gets its name from a constant: `const {name} = enum(u16) {{ ... }};`"
            )
        elements = self.items("}", self.expect("{"), self._element)
        return ast.EnumType(self.span(start), type_, elements)

    def _element(self) -> ast.Element:
        start = self.token.start
        name = self.name("an element of the enumeration")
        value = self.expression() if self.accept("=") else None
        return ast.Element(self.span(start), name, value)
