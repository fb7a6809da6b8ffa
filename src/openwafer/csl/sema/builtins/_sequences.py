"""Tensors and ranges."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value


def _tensor(call: Call) -> t.Array:
    found = call.type(0, "the type of an array")
    if not isinstance(found, t.Array):
        call.error(
            call.span_of(0),
            expected="the type of an array",
            found=f"`{found}`",
            hint=f"write [1]{found} for one element",
        )
    return found


@builtin("zeros", 1)
def zeros(call: Call) -> Value:
    """A tensor of zeros."""
    tensor = _tensor(call)
    nought = v.zero(tensor.element)
    if nought is None or not (t.is_numeric(tensor.element) or isinstance(tensor.element, t.Primitive)):
        call.error(call.span_of(0), f"`{tensor.element}` has no zero", hint="use an array of numbers")
    return v.uniform(tensor, nought)


@builtin("constants", 2)
def constants(call: Call) -> Value:
    """A tensor of which every element is the same; where running code has that, a loop stores it."""
    tensor = _tensor(call)
    value = call.coerced(1, tensor.element)
    return v.uniform(tensor, value) if value.known else call.engine.repeated(tensor, value, call.span)


@builtin("range", 2, 4)
def range_(call: Call) -> Value:
    """`@range(T, stop)`, `@range(T, start, stop, step)`."""
    element = call.type(0, "an integer type")
    if not isinstance(element, t.Primitive) or not t.is_integer(element):
        call.error(call.span_of(0), expected="an integer type", found=f"`{element}`")
    if len(call) == 3:
        call.error(None, "@range takes a type and a stop, or a type, a start, a stop and a step")
    if len(call) == 2:
        return v.range_value(element, Value(element, 0), call.coerced(1, element), Value(element, 1))
    start, stop, step = (call.coerced(index, element) for index in (1, 2, 3))
    if step.known and step.data == 0:
        call.error(
            call.span_of(3), "a range with a step of 0 never ends", hint="step by 1 or more, or by -1 or less"
        )
    return v.range_value(element, start, stop, step)


def _part(call: Call, number: int) -> Value:
    value = call.value(0)
    if not isinstance(value.type, t.Range):
        call.error(call.span_of(0), expected="a range", found=f"`{value.type}`", hint="make one with @range")
    part: Value = value.data[number]
    return part


@builtin("range_start", 1)
def range_start(call: Call) -> Value:
    """Where a range begins."""
    return _part(call, 0)


@builtin("range_stop", 1)
def range_stop(call: Call) -> Value:
    """Where it ends; the stop does not belong to it."""
    return _part(call, 1)


@builtin("range_step", 1)
def range_step(call: Call) -> Value:
    """From one number to the next."""
    return _part(call, 2)
