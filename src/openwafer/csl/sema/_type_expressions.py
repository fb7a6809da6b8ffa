"""Types, which are expressions: `[N]T`, `*T`, `struct { ... }`, and names of types."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema._operators import Operators
from openwafer.csl.sema._types import Type
from openwafer.csl.syntax import ast


class TypeExpressions(Operators):
    """What an expression is as a type."""

    def type_of(self, node: ast.Expression, what: str = "a type") -> Type:
        """The type that an expression is."""
        value = self.evaluate(node)
        if value.type is not t.TYPE:
            self.fail(node.span, expected=what, found=self.describe(value))
        found: Type = value.data
        return found

    def type_without_code(self, node: ast.Expression) -> Type:
        """The type of an expression, without the code that computes it."""
        frame = self.frame
        if frame.comptime or frame.builder is None or frame.builder.block is None:
            return self.evaluate_type_only(node)
        builder, kept = frame.builder, frame.builder.block
        count, length = len(builder.blocks), len(kept.instructions)
        locals = dict(builder.locals)
        try:
            return self.evaluate(node).type
        finally:
            builder.forget(count, kept, length, locals)

    def evaluate_type_only(self, node: ast.Expression) -> Type:
        """At comptime a variable of running code has a type, though no value."""
        if isinstance(node, ast.Name | ast.Member | ast.Index | ast.Dereference):
            return self.place(node).type
        return self.evaluate(node).type

    def pointer_type(self, node: ast.PointerType) -> Type:
        """`*T`, `[*]T`."""
        target = self.type_of(node.target)
        if (
            self.comptime_only(target)
            and not isinstance(target, t.FunctionType)
            and (target is not t.ANYOPAQUE or node.many)
        ):
            self.fail(
                node.target.span,
                f"values of type `{target}` are never in memory, so there are no pointers to them",
            )
        return t.pointer(target, const=node.const, many=node.many)

    def array_type(self, node: ast.ArrayType) -> Type:
        """`[N]T`, `[N, M]T`."""
        extents = []
        for one in node.extents:
            value = self.require_known(self.evaluate(one), one.span, "the size of an array")
            if not t.is_integer(value.type):
                self.fail(one.span, "the size of an array", expected="an integer", found=self.describe(value))
            if value.data < 0:
                self.fail(one.span, f"the size of an array is negative: {value.data}")
            extents.append(value.data)
        element = self.type_of(node.element)
        if isinstance(element, t.Array):
            sizes = ", ".join(map(str, (*extents, *element.extents)))
            self.fail(
                node.element.span,
                "the elements of an array are no arrays",
                hint=f"write `[{sizes}]{element.element}`",
            )
        return t.array(extents, element)

    def function_type(self, node: ast.FunctionType) -> Type:
        """`fn(T) R`."""
        parameters = [None if one.type is None else self.type_of(one.type) for one in node.parameters]
        return t.function(node.kind, parameters, self.type_of(node.result))

    def enum_type(self, node: ast.EnumType) -> Type:
        """`enum(T) { ... }`."""
        base = t.U16 if node.type is None else self.type_of(node.type)
        if not t.is_fixed_integer(base) or not isinstance(base, t.Primitive):
            span = node.type.span if node.type is not None else node.span
            self.fail(span, "the numbers of an enum", expected="a fixed-width integer", found=f"`{base}`")
        given: dict[str, int] = {}
        for one in node.elements:
            if one.name in (other.name for other in node.elements if other is not one):
                self.fail(one.span, f"the enum has two elements `{one.name}`")
            if one.value is not None:
                value = self.coerce(self.evaluate(one.value, base), base, one.value.span)
                number = self.require_known(value, one.value.span, "the number of an element").data
                if number in given.values():
                    self.fail(one.span, f"two elements have the number {number}")
                given[one.name] = number
        taken, following, elements = set(given.values()), 0, []
        for one in node.elements:
            if one.name in given:
                elements.append((one.name, given[one.name]))
                continue
            while following in taken:
                following += 1
            elements.append((one.name, following))
            following += 1
        return t.enumeration(base, elements, node.span)

    def struct_type(self, node: ast.StructType) -> Type:
        """`struct { ... }`."""
        names: list[str] = []
        for one in node.fields:
            if one.name in names:
                self.fail(one.span, f"the struct has two fields `{one.name}`")
            names.append(one.name)
        types = [self.type_of(one.type) for one in node.fields]
        if node.kind == "union" and not types:
            self.fail(node.span, "a union needs a field")
        packed = node.layout == "packed"
        if packed:
            self._check_packed(node, types)
        return t.record(names, types, definition=node.span, kind=node.kind, packed=packed)

    def _check_packed(self, node: ast.StructType, types: list[Type]) -> None:
        """Only what has a width in bits can lie in a packed type."""
        for one, type in zip(node.fields, types, strict=True):
            scalar = isinstance(type, t.Primitive) and type.kind in ("integer", "float")
            packed = isinstance(type, t.Record) and type.packed
            if not (scalar or packed or isinstance(type, t.Enum | t.Pointer) or type is t.BOOL):
                self.fail(
                    one.type.span,
                    f"a field of a packed {node.kind}",
                    expected="a number, bool, enum, pointer, or another packed type",
                    found=f"`{type}`",
                )
        if node.kind == "union" and len({t.packed_bits(one) for one in types}) > 1:
            sizes = ", ".join(f"{t.packed_bits(one)}" for one in types)
            self.fail(
                node.span,
                "the fields of a packed union have one size",
                expected="as many bits in each",
                found=f"{sizes} bits",
            )
