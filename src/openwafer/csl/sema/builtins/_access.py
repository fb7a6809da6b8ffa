"""`|i, j|{N, M} -> a[i, j + 1]`: a tensor access expression, which is a struct of base address, offset, stride and extent.

The indices are tried out rather than taken apart: the body is evaluated at the first element, one step along each index and
at the last element. What lies on no straight line is refused.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._affine import Affine, documented_strides, flatten
from openwafer.csl.syntax import ast

if TYPE_CHECKING:
    from openwafer.csl.sema._core import Core


def tensor_access(engine: Core, node: ast.Lambda) -> Value:
    """The struct that a tensor access stands for; fields as "Data Structure Descriptors" names them."""
    if len(node.names) > 4:
        engine.fail(node.span, "a DSD has at most 4 dimensions", hint="use fewer indices")
    if len(node.extents) != len(node.names):
        engine.fail(
            node.span,
            f"{len(node.names)} indices, but {len(node.extents)} extents",
            hint="write one extent for each index: |i, j|{N, M} -> a[i, j]",
        )
    body = node.body
    if not isinstance(body, ast.Index):
        engine.fail(body.span, expected="an element of a tensor, such as a[i]", found=f"`{body.span.text}`")
    extents = [_extent(engine, one) for one in node.extents]
    pointer, tensor = _base(engine, body.base)
    shape = tensor.extents if isinstance(tensor, t.Array) else (0,)
    if len(body.indices) != len(shape):
        engine.fail(
            body.span,
            f"`{body.base.span.text}` has {len(shape)} dimensions, but {len(body.indices)} indices are given",
        )
    indices = [_affine(engine, one, node.names, extents) for one in body.indices]
    place = flatten(indices, shape)
    if isinstance(tensor, t.Array) and 0 not in extents:
        low, high = place.ends(dict(zip(node.names, extents, strict=True)))
        if low < 0 or high >= tensor.count:
            outside = low if low < 0 else high
            engine.warn(
                node.span,
                f"this reaches element {outside} of `{body.base.span.text}`, which has {tensor.count}",
            )
    strides = documented_strides([place.step(name) for name in node.names], extents)
    narrow = len(strides) == 1 and t.I8.low <= strides[0] <= t.I8.high
    for number in (place.offset, *strides):
        if not t.I16.low <= number <= t.I16.high:
            engine.fail(
                node.span, f"a step of {number} elements is too far: offsets and strides have 16 bits"
            )
    return v.anonymous(
        base_address=pointer,
        offset=Value(t.I16, place.offset),
        stride=v.tuple_of(*(Value(t.I8 if narrow else t.I16, one) for one in strides)),
        extent=v.tuple_of(*(Value(t.U16, one) for one in extents)),
    )


def _extent(engine: Core, node: ast.Expression) -> int:
    value = engine.require_known(engine.evaluate(node), node.span, "the extent of a tensor access")
    if not t.is_integer(value.type):
        engine.fail(
            node.span, "the extent of a tensor access", expected="an integer", found=f"`{value.type}`"
        )
    return engine.require_within(int(value.data), node.span, "the extent of a tensor access", 0, 0xFFFF)


def _base(engine: Core, node: ast.Expression) -> tuple[Value, t.Type]:
    """A pointer to the tensor, and the tensor's type (an element's type for `[*]T`)."""
    place = engine.place(node)
    if isinstance(place.type, t.Pointer):
        pointer = engine.require_known(
            engine.load(place, node.span), node.span, f"the pointer `{node.span.text}`"
        )
    elif isinstance(place.type, t.Array):
        pointer = engine.address(place, node.span)
    else:
        engine.fail(
            node.span,
            "what a tensor access is about",
            expected="a global array, or a pointer to one",
            found=f"`{place.type}`",
        )
    assert isinstance(pointer.type, t.Pointer)
    if not pointer.known:
        engine.fail(
            node.span,
            f"`{node.span.text}` has no address that is known at compile time",
            hint="use a global array, or .base_address with .extent, which take any pointer",
        )
    return pointer, pointer.type.target


def _affine(engine: Core, node: ast.Expression, names: tuple[str, ...], extents: list[int]) -> Affine:
    def at(numbers: dict[str, int]) -> int:
        with engine.bound_names({name: v.comptime_int(number) for name, number in numbers.items()}):
            value = engine.require_known(engine.evaluate(node), node.span, "the index of a tensor access")
        if not t.is_integer(value.type):
            engine.fail(
                node.span, "the index of a tensor access", expected="an integer", found=f"`{value.type}`"
            )
        return int(value.data)

    first = dict.fromkeys(names, 0)
    found = Affine(at(first))
    # An extent of 1 has its step too: programs make such a DSD longer as they run.
    for name in names:
        found = found.plus(Affine(0, ((name, at({**first, name: 1}) - found.offset),)))
    # straight along each index, and together at the far corners
    for corner in product(*({0, extent - 1} if extent > 2 else {0} for extent in extents)):
        numbers = dict(zip(names, corner, strict=True))
        if at(numbers) != found.offset + sum(found.step(name) * number for name, number in numbers.items()):
            engine.fail(
                node.span,
                "the index of a tensor access is not a straight line",
                hint="use sums of indices times constants, such as 2 * i + j + 1",
            )
    return found
