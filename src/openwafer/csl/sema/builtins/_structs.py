"""Structs by the names of their fields."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin, builtin_place
from openwafer.csl.sema._values import Place, Value
from openwafer.csl.syntax import ast


def _member(call: Call) -> ast.Member:
    return ast.Member(call.span, call.arguments[0], call.text(1, "the name of a field"))


@builtin("field", 2)
def field(call: Call) -> Value:
    """`@field(value, "name")`."""
    return call.engine.evaluate(_member(call))


@builtin_place("field")
def field_place(call: Call) -> Place:
    """The same left of `=`."""
    return call.engine.place(_member(call))


@builtin("has_field", 2)
def has_field(call: Call) -> Value:
    """`@has_field(value, "name")`."""
    found = call.engine.type_without_code(call.arguments[0])
    name = call.text(1, "the name of a field")
    if found is t.MODULE:
        return v.boolean(name in call.value(0).data.globals)
    if not isinstance(found, t.Record):
        call.error(call.span_of(0), expected="a struct", found=f"`{found}`")
    return v.boolean(found.index(name) is not None)


@builtin("concat_structs", 2)
def concat_structs(call: Call) -> Value:
    """The fields of two anonymous structs in one; dialect 1.4 only."""
    if call.dialect != "1.4":
        call.error(
            None,
            "@concat_structs is gone from dialect 2.10",
            hint="write a struct type with all the fields, or compile with --sdk-dialect=1.4",
        )
    first, second = _anonymous(call, 0), _anonymous(call, 1)
    values = (*first.data, *second.data)
    if not first.data or not second.data:
        return second if not first.data else first
    assert isinstance(first.type, t.Record)
    assert isinstance(second.type, t.Record)
    names, more = first.type.names, second.type.names
    if (names is None) != (more is None):
        call.error(
            None,
            "one struct has names for its fields, the other has none",
            hint="name the fields of both: .{ .a = 1 } and .{ .b = 2 }",
        )
    if names is None or more is None:
        return v.tuple_of(*values)
    for name in more:
        if name in names:
            hint = "leave it out of one of them"
            call.error(call.span_of(1), f"both structs have a field `{name}`", hint=hint)
    return v.struct(t.record((*names, *more), (value.type for value in values)), values)


def _anonymous(call: Call, index: int) -> Value:
    value = call.known(index, "a struct to concatenate")
    if not isinstance(value.type, t.Record) or value.type.definition is not None:
        call.error(call.span_of(index), expected="an anonymous struct", found=f"`{value.type}`")
    return value
