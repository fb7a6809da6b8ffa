"""Operators: what is known is computed at once, the rest becomes code."""

from __future__ import annotations

from typing import Final

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _numbers as numbers
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._places import Places
from openwafer.csl.sema._scope import Arrival
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import ast

_CODES: Final[dict[str, ir.Arithmetic]] = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "%": "rem",
    "&": "and", "|": "or", "^": "xor", "<<": "shl", ">>": "shr",
}  # fmt: skip
_COMPARISONS: Final[dict[str, ir.Comparison]] = {
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip
_EQUAL_KINDS: Final = ("bool", "color", "id", "queue", "thread", "direction", "dsr")


class Operators(Places):
    """Unary and binary operators."""

    def unary(self, node: ast.Unary, expected: Type | None) -> Value:
        """`-a`, `~a`, `!a`, `&a`."""
        operator = node.operator
        if operator == "&":
            return self.address_of(node)
        return self.apply_unary(operator, self.evaluate(node.operand, expected), node)

    def apply_unary(self, operator: str, value: Value, node: ast.Unary) -> Value:
        """`operator value`, for `-`, `~` and `!`."""
        type = value.type
        if operator == "!":
            if type is not t.BOOL:
                self.fail(node.operand.span, "`!` negates", expected="`bool`", found=self.describe(value))
            return (
                v.boolean(not value.data) if value.known else self._compute("not", [value], t.BOOL, node.span)
            )
        if operator == "~":
            if not t.is_fixed_integer(type):
                hint = "give it a width: `~@as(u16, ...)`" if type is t.COMPTIME_INT else ""
                self.fail(
                    node.operand.span, "`~`", expected="a fixed-width integer", found=f"`{type}`", hint=hint
                )
            if value.known:
                assert isinstance(type, t.Primitive)
                return Value(type, numbers.wrap(~value.data, type))
            return self._compute("not", [value], type, node.span)
        if not t.is_integer(type) and not t.is_float(type):
            self.fail(node.operand.span, "`-`", expected="a number", found=self.describe(value))
        if not value.known:
            return self._compute("neg", [value], type, node.span)
        if t.is_float(type):
            return Value(type, -value.data)
        try:
            return Value(type, numbers.check(-value.data, type))
        except numbers.OutOfRange as error:
            self.fail(node.span, str(error), hint="use a wider type")

    def address_of(self, node: ast.Unary) -> Value:
        """`&a`."""
        raise NotImplementedError

    def binary(self, node: ast.Binary, expected: Type | None) -> Value:
        """Arithmetic, comparisons and the logical connectives; long chains to the left take no recursion."""
        chain = [node]
        while isinstance(chain[-1].left, ast.Binary):
            chain.append(chain[-1].left)
        value: Value | None = None
        for one in reversed(chain):
            if one.operator in ("and", "or"):
                left = value if value is not None else self.evaluate(one.left, t.BOOL)
                value = self._logical(one, left)
                continue
            wanted = None if one.operator in _COMPARISONS else expected
            left = value if value is not None else self.evaluate(one.left, wanted)
            right = self.evaluate(one.right, wanted)
            value = self.apply(one.operator, left, right, one.span, one.left.span, one.right.span)
        assert value is not None
        return value

    def apply(
        self, operator: str, left: Value, right: Value, span: Span, left_span: Span, right_span: Span
    ) -> Value:
        """`left operator right`."""
        if operator in _COMPARISONS:
            return self._compare(operator, left, right, span, left_span, right_span)
        if operator in ("<<", ">>"):
            return self._shift(operator, left, right, span, left_span, right_span)
        integers = operator in ("%", "&", "|", "^")
        for value, where in ((left, left_span), (right, right_span)):
            if not t.is_integer(value.type) and (integers or not t.is_float(value.type)):
                wanted = "an integer" if integers else "a number"
                self.fail(where, f"`{operator}`", expected=wanted, found=self.describe(value))
        left, right = self._same(operator, left, right, span, left_span, right_span)
        type = left.type
        if left.known and right.known:
            return self._folded(operator, left, right, type, span, right_span)
        if operator in ("/", "%") and right.known and t.is_integer(type) and right.data == 0:
            self.fail(right_span, "division by zero")
        return self._compute(_CODES[operator], [left, right], type, span)

    def _folded(
        self, operator: str, left: Value, right: Value, type: Type, span: Span, right_span: Span
    ) -> Value:
        try:
            if t.is_float(type):
                return Value(type, numbers.float_arithmetic(operator, left.data, right.data, type))
            return Value(type, numbers.integer_arithmetic(operator, left.data, right.data, type))
        except ZeroDivisionError:
            self.fail(right_span, "division by zero")
        except numbers.OutOfRange as error:
            self.fail(
                span,
                str(error),
                hint="" if t.is_float(type) else "use a wider type, or `@as` on the operands",
            )

    def _same(
        self, operator: str, left: Value, right: Value, span: Span, left_span: Span, right_span: Span
    ) -> tuple[Value, Value]:
        if left.type is right.type:
            return left, right
        common = self.common(left.type, right.type)
        if common is None:
            wide = left.type if left.known is right.known or not left.known else right.type
            if t.is_integer(wide) and (
                t.is_float(left.type) or t.is_float(right.type)
            ):  # the fraction would be lost
                floating = left.type if t.is_float(left.type) else right.type
                wide = t.F32 if floating is t.COMPTIME_FLOAT else floating
            self.fail(
                span,
                f"the operands of `{operator}` have different types, `{left.type}` and `{right.type}`",
                hint=f"convert one of them, for example with `@as({wide}, ...)`"
                if t.is_numeric(wide)
                else "",
            )
        return self.coerce(left, common, left_span), self.coerce(right, common, right_span)

    def _shift(
        self, operator: str, left: Value, right: Value, span: Span, left_span: Span, right_span: Span
    ) -> Value:
        for value, where in ((left, left_span), (right, right_span)):
            if not t.is_integer(value.type):
                self.fail(where, f"`{operator}`", expected="an integer", found=self.describe(value))
        if isinstance(right.type, t.Primitive) and right.type.bits and right.type.signed:
            hint = "convert it with `@as(u16, ...)`"
            self.fail(
                right_span,
                "the bits to shift by",
                expected="an unsigned integer",
                found=f"`{right.type}`",
                hint=hint,
            )
        if right.known and right.data < 0:
            self.fail(right_span, f"a shift by {right.data} bits", hint="shift the other way")
        type = left.type
        if left.known and right.known:
            return self._folded(operator, left, right, type, span, right_span)
        if type is t.COMPTIME_INT:
            left = self.coerce(left, right.type, left_span)
            type = left.type
        assert isinstance(type, t.Primitive)
        amount = (
            Value(type, min(right.data, type.bits)) if right.known else self.convert(right, type, right_span)
        )
        return self._compute(_CODES[operator], [left, amount], type, span)

    def _compare(
        self, operator: str, left: Value, right: Value, span: Span, left_span: Span, right_span: Span
    ) -> Value:
        ordered = operator not in ("==", "!=")
        for value, where in ((left, left_span), (right, right_span)):
            type = value.type
            fits = t.is_integer(type) or t.is_float(type)
            if not ordered:
                fits = fits or isinstance(type, t.Enum) or type is t.COMPTIME_STRING
                fits = fits or (isinstance(type, t.Primitive) and type.kind in _EQUAL_KINDS)
                fits = fits or (type is t.TYPE and self.options.dialect == "2.10")
            if not fits:
                hint = "compare types with `@is_same_type(a, b)`" if type is t.TYPE else ""
                wanted = "a number" if ordered else "a number, bool, enum, string or id"
                self.fail(where, f"`{operator}`", expected=wanted, found=f"`{type}`", hint=hint)
        left, right = self._same(operator, left, right, span, left_span, right_span)
        if left.known and right.known:
            return v.boolean(numbers.COMPARE[operator](left.data, right.data))
        code = left.type.ir
        assert code is not None
        builder = self.builder(span, f"`{operator}`")
        number = builder.number()
        operands = self.operand(left, left_span), self.operand(right, right_span)
        builder.emit(ir.Compare(number, _COMPARISONS[operator], code, *operands, self.location(span)))
        return v.code(t.BOOL, ir.Temporary(number))

    def _compute(self, operation: ir.Arithmetic, values: list[Value], type: Type, span: Span) -> Value:
        code = type.ir
        assert code is not None
        operands = tuple([self.operand(value, span) for value in values])
        builder = self.builder(span)
        number = builder.number()
        builder.emit(ir.Compute(number, operation, code, operands, self.location(span)))
        return self.narrowed(v.code(type, ir.Temporary(number)), span)

    def _logical(self, node: ast.Binary, left: Value) -> Value:
        """The right side is looked at only if the left one does not decide."""
        left = self.truth(left, node.left.span, f"`{node.operator}`")
        decides = node.operator == "or"
        if left.known:
            if left.data is decides:
                return left
            return self.truth(self.evaluate(node.right, t.BOOL), node.right.span, f"`{node.operator}`")
        builder = self.builder(node.span)
        before = builder.block
        if before is None:
            return left
        inner = builder.new_block()
        builder.block = inner
        with self.controlled():
            right = self.truth(self.evaluate(node.right, t.BOOL), node.right.span, f"`{node.operator}`")
        after = builder.block
        short = builder.new_block()
        then, otherwise = (short, inner) if decides else (inner, short)
        builder.block = before
        builder.branch(self.operand(left, node.span), then, otherwise)
        ways = [Arrival(short, v.boolean(decides), node.span), Arrival(after, right, node.right.span)]
        return self.merge(ways, t.BOOL, node.span)

    def truth(self, value: Value, span: Span, what: str) -> Value:
        """A condition."""
        if value.type is not t.BOOL:
            hint = "compare it: `x != 0`" if t.is_numeric(value.type) else ""
            self.fail(span, what, expected="`bool`", found=self.describe(value), hint=hint)
        return value
