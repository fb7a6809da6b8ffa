"""Types as values: what a type is made of, and changes of type."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value


@builtin("as", 2)
def as_(call: Call) -> Value:
    """`@as(T, value)`: between numbers and bool; floats to integers round towards zero."""
    target = call.type(0)
    return call.convert(call.value(1, target), target)


@builtin("bitcast", 2)
def bitcast(call: Call) -> Value:
    """`@bitcast(T, value)`: the same bits."""
    target = call.type(0)
    value = call.value(1)
    if value.type is t.COMPTIME_INT and isinstance(target, t.Pointer):
        value = call.coerced(1, t.U16)
    elif value.type in (t.COMPTIME_INT, t.COMPTIME_FLOAT):
        call.error(
            call.span_of(1),
            "the bits of a number without a width",
            expected="a value of a type with a width",
            found=f"`{value.type}`",
            hint=f"say which: @bitcast({target}, @as({_same_width(target, value.type)}, ...))",
        )
    return call.bitcast(value, target)


def _same_width(target: t.Type, source: t.Type) -> str:
    if source is t.COMPTIME_FLOAT:
        return "f16" if target.bytes == 2 else "f32"
    return f"u{8 * target.bytes or 16}"


@builtin("ptrcast", 2, stage="any")
def ptrcast(call: Call) -> Value:
    """`@ptrcast(*T, pointer)`: the same address."""
    target = call.type(0, "the type of a pointer")
    if not isinstance(target, t.Pointer):
        call.error(call.span_of(0), expected="the type of a pointer", found=f"`{target}`")
    if target.target.comptime_only and target.target not in (t.VOID, t.ANYOPAQUE):
        call.error(
            call.span_of(0), f"`{target.target}` is known only to the compiler, so nothing can point to it"
        )
    value = call.value(1)
    if not isinstance(value.type, t.Pointer):
        call.error(
            call.span_of(1),
            expected="a pointer",
            found=f"`{value.type}`",
            hint="take the address with `&`; for an integer address use @bitcast",
        )
    if isinstance(value.data, v.Reference):
        call.error(call.span_of(1), "a variable of the compiler has no address that could be cast")
    return Value(target, value.data, value.known)


@builtin("is_same_type", 2)
def is_same_type(call: Call) -> Value:
    """`@is_same_type(A, B)`."""
    return v.boolean(call.type(0) is call.type(1))


@builtin("type_of", 1)
def type_of(call: Call) -> Value:
    """`@type_of(expression)`: no code is made of the expression."""
    return v.type_value(call.engine.type_without_code(call.arguments[0]))


def _array(call: Call) -> t.Array:
    found = call.type(0, "the type of an array")
    if not isinstance(found, t.Array):
        hint = "for an array itself write @type_of(array)"
        call.error(call.span_of(0), expected="the type of an array", found=f"`{found}`", hint=hint)
    return found


@builtin("element_type", 1)
def element_type(call: Call) -> Value:
    """`@element_type([3, 5]f16)` is f16."""
    return v.type_value(_array(call).element)


@builtin("element_count", 1)
def element_count(call: Call) -> Value:
    """`@element_count([3, 5]f16)` is 15, a u32."""
    return Value(t.U32, _array(call).count)


@builtin("dimensions", 1)
def dimensions(call: Call) -> Value:
    """`@dimensions([3, 5]f16)` is [2]u32 {3, 5}."""
    extents = _array(call).extents
    return v.array_value(t.array((len(extents),), t.U32), extents)


@builtin("rank", 1)
def rank(call: Call) -> Value:
    """`@rank([3, 5]f16)` is 2, a u16."""
    return Value(t.U16, len(_array(call).extents))


@builtin("fp16", 0)
def fp16(call: Call) -> Value:
    """The 16-bit float that the program is compiled for."""
    return v.type_value(call.engine.half)


@builtin("is_comptime", 0)
def is_comptime(call: Call) -> Value:
    """Whether this is evaluated by the compiler."""
    return v.boolean(call.comptime)


@builtin("get_int", 1)
def get_int(call: Call) -> Value:
    """The integer of a color, an id, a queue or an enum."""
    value = call.value(0)
    match value.type:
        case t.Enum(base=base):
            return Value(base, value.data, value.known)
        case t.Primitive(kind="integer") | t.COMPTIME_INT:
            return value
        case t.Primitive(kind="color" | "id" | "queue" | "thread"):
            return Value(t.U16, value.data, value.known)
        case t.Primitive(kind="dsr") if call.dialect == "2.10":
            return Value(t.U16, value.data)
    call.error(
        call.span_of(0),
        expected="a color, task id, queue, microthread, enum or integer",
        found=f"`{value.type}`",
    )
