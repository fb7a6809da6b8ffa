"""Operations that move elements: reshape, broadcast, transpose, slice, pad, join, split, and constants."""

from __future__ import annotations

import torch
from torch import fx

from openwafer.compat.cirh._batch import Axes, Axis, Look, result
from openwafer.compat.cirh._dense import decode
from openwafer.compat.cirh._emit import Emitter, Splat, Value, dtype_of
from openwafer.compat.cirh._function import Dense
from openwafer.compat.cirh._rules import Use, alike_but, rule, unrelated

aten = torch.ops.aten


def view(emit: Emitter, node: fx.Node, shape: list[int]) -> fx.Node:
    """The elements in another shape; copied first if they lie otherwise in memory."""
    if list(node.meta["val"].shape) == shape:
        return node
    try:
        node.meta["val"].view(shape)
    except RuntimeError:
        node = emit(aten.clone.default, node, memory_format=torch.contiguous_format)
    return emit(aten.view.default, node, shape)


@rule("Reshape", axes=unrelated, exact=True)
def _reshape(use: Use) -> Value:
    value = use.values[0]
    if isinstance(value, Splat):
        return Splat(value.source, value.dtype, use.outs[0].shape)
    return view(use.emit, value, use.shape())


def _broadcast_axes(look: Look) -> Axes:
    return [
        (Axis.EACH, [(0, dim), (result(), into)])
        for dim, into in enumerate(look.dims("broadcast_dimensions"))
        if look.ins[0].shape[dim] == look.outs[0].shape[into]
    ]


@rule("BroadcastInDim", axes=_broadcast_axes, exact=True)
def _broadcast(use: Use) -> Value:
    value = use.values[0]
    if isinstance(value, Splat):
        return Splat(value.source, value.dtype, use.outs[0].shape)
    if not use.ins[0].shape:
        return Splat(value, dtype_of(value), use.outs[0].shape)
    shape = [1] * len(use.outs[0].shape)
    for dim, into in enumerate(use.list_of("broadcast_dimensions")):
        shape[into] = use.ins[0].shape[dim]
    node = view(use.emit, value, shape)
    return node if shape == use.shape() else use.emit(aten.expand.default, node, use.shape())


def _transpose_axes(look: Look) -> Axes:
    order = look.constant(1) or []
    return [(Axis.EACH, [(0, dim), (result(), into)]) for into, dim in enumerate(order)]


@rule("Transpose", axes=_transpose_axes, exact=True)
def _transpose(use: Use) -> Value:
    value, order = use.values[0], use.known(1, "the permutation")
    if isinstance(value, Splat):
        return Splat(value.source, value.dtype, use.outs[0].shape)
    return (
        use.emit(aten.t.default, value) if order == [1, 0] else use.emit(aten.permute.default, value, order)
    )


@rule("Const", axes=unrelated, exact=True)
def _const(use: Use) -> Value:
    dense = use.op.attributes.get("value")
    if not isinstance(dense, Dense):
        raise use.refuse("it has no value")
    found = decode(dense)
    if found.ndim == 0:
        return Splat(found.item(), found.dtype, use.outs[0].shape)
    return use.emit.constant(found)


@rule("Arange", axes=unrelated, exact=True)
def _arange(use: Use) -> Value:
    """Operands: start, end, step; the numbers run along `dim`."""
    if any(number is None for number in use.numbers):
        raise use.refuse("start, end and step must be constants")
    start, end, step = (number.item() for number in use.numbers if number is not None)
    node = use.emit(aten.arange.start_step, start, end, step, dtype=use.dtype())
    dim = use.integer("dim", 0)
    if len(use.shape()) == 1:
        return node
    shape = [size if at == dim else 1 for at, size in enumerate(use.shape())]
    return use.emit(aten.expand.default, use.emit(aten.view.default, node, shape), use.shape())


# --- parts ------------------------------------------------------------------------------------------------


def _slice_axes(look: Look) -> Axes:
    """Dims that are taken whole."""
    return [
        (Axis.EACH, [(0, dim), (result(), dim)])
        for dim, (size, kept) in enumerate(zip(look.ins[0].shape, look.outs[0].shape, strict=True))
        if size == kept
    ]


def _sliced(use: Use, begin: list[int], ends: list[int], steps: list[int]) -> Value:
    value = use.values[0]
    if isinstance(value, Splat):
        return Splat(value.source, value.dtype, use.outs[0].shape)
    for dim, (first, last, step) in enumerate(zip(begin, ends, steps, strict=True)):
        if first != 0 or step != 1 or last < use.ins[0].shape[dim]:
            value = use.emit(aten.slice.Tensor, value, dim, first, last, step)
    return value


@rule("Slice", axes=_slice_axes, exact=True)
def _slice(use: Use) -> Value:
    """Operands: input, where each dim begins, how much of it."""
    begin = use.known(1, "where the slice begins")
    return _sliced(
        use, begin, [first + size for first, size in zip(begin, use.shape(), strict=True)], [1] * len(begin)
    )


def _strided_axes(look: Look) -> Axes:
    begin, end, steps = (look.constant(index) for index in (1, 2, 3))
    if begin is None or end is None or steps is None or len(look.ins[0].shape) != len(look.outs[0].shape):
        return []
    return [
        (Axis.EACH, [(0, dim), (result(), dim)])
        for dim, size in enumerate(look.ins[0].shape)
        if begin[dim] == 0 and steps[dim] == 1 and end[dim] == size == look.outs[0].shape[dim]
    ]


def _no_masks(use: Use) -> None:
    for key in ("begin_mask", "ellipsis_mask", "end_mask", "new_axis_mask", "shrink_axis_mask"):
        if use.integer(key, 0):
            raise use.refuse(f"{key} is not run here; write out begin and end for each dim")


@rule("StridedSlice", axes=_strided_axes, exact=True)
def _strided_slice(use: Use) -> Value:
    """Operands: input, begin, end, step of each dim."""
    _no_masks(use)
    begin, end, steps = (use.known(index, "a bound of the slice") for index in (1, 2, 3))
    if any(step < 1 for step in steps):
        raise use.refuse(f"steps must be positive, not {steps}")
    ends = [
        use.ins[0].shape[dim]
        if (begin[dim], steps[dim]) == (0, 1) and use.ins[0].shape[dim] == size
        else end[dim]
        for dim, size in enumerate(use.shape())
    ]
    return _sliced(use, begin, ends, steps)


def _strided_grad_axes(look: Look) -> Axes:
    gradient = len(look.ins) - 1
    return [
        (Axis.EACH, [(gradient, dim), (result(), dim)])
        for dim, size in enumerate(look.outs[0].shape)
        if look.ins[gradient].shape[dim : dim + 1] == (size,)
    ]


@rule("StridedSliceGrad", axes=_strided_grad_axes, exact=True)
def _strided_slice_grad(use: Use) -> Value:
    """Operands: shape of the input, begin, end, step, gradient; zeros elsewhere."""
    _no_masks(use)
    begin, steps = use.known(1, "begin"), use.known(3, "the steps")
    node = use.tensor(len(use.values) - 1)
    for dim, size in enumerate(use.shape()):
        kept = node.meta["val"].shape[dim]
        if kept == size:
            continue
        shape = list(node.meta["val"].shape)
        shape[dim] = size
        node = use.emit(
            aten.slice_backward.default,
            node,
            shape,
            dim,
            begin[dim],
            begin[dim] + (kept - 1) * steps[dim] + 1,
            steps[dim],
        )
    return node


@rule("Split", axes=alike_but("axis"), exact=True)
def _split(use: Use) -> Value | tuple[Value, ...]:
    axis = use.integer("axis")
    value = use.values[0]
    if isinstance(value, Splat):
        return tuple(Splat(value.source, value.dtype, kind.shape) for kind in use.outs)
    parts, start = [], 0
    for kind in use.outs:
        end = start + kind.shape[axis]
        parts.append(use.emit(aten.slice.Tensor, value, axis, start, end))
        start = end
    return tuple(parts)


@rule("Concat", axes=alike_but("axis"), exact=True)
def _concat(use: Use) -> Value:
    return use.emit(aten.cat.default, [use.tensor(i) for i in range(len(use.values))], use.integer("axis"))


@rule(
    "Repeat",
    axes=lambda look: [
        (Axis.EACH, [(0, dim), (result(), dim)])
        for dim, times in enumerate(look.dims("repeats"))
        if times == 1
    ],
    exact=True,
)
def _repeat(use: Use) -> Value:
    return use.emit(aten.repeat.default, use.tensor(0), use.list_of("repeats"))


def _pad_axes(look: Look) -> Axes:
    return [
        (Axis.EACH, [(0, dim), (result(), dim)])
        for dim, (size, made) in enumerate(zip(look.ins[0].shape, look.outs[0].shape, strict=True))
        if size == made
    ]


@rule("pad", axes=_pad_axes, exact=True)
def _pad(use: Use) -> Value:
    """A constant before, after and (interior) between the elements of each dim; negative sizes cut off."""
    use.text("padding_mode", "CONSTANT")
    low, high = use.list_of("edge_padding_low"), use.list_of("edge_padding_high")
    if any(use.list_of("interior_padding")):
        raise use.refuse("interior padding is not run here")
    fill = use.op.attributes.get("constant_values")
    if not isinstance(fill, Dense):
        raise use.refuse("it has no constant_values")
    values = {float(value) for value in decode(fill).reshape(-1)}
    if len(values) > 1:
        raise use.refuse("a different constant for each dim is not run here")
    sizes = [size for pair in reversed(list(zip(low, high, strict=True))) for size in pair]
    return use.emit(aten.constant_pad_nd.default, use.tensor(0), sizes, values.pop() if values else 0.0)


@rule("unpad", axes=_pad_axes, exact=True)
def _unpad(use: Use) -> Value:
    """Cuts off the end of each dim."""
    return _sliced(use, [0] * len(use.shape()), use.shape(), [1] * len(use.shape()))


# --- triangles, ranges by mask, one-hot -------------------------------------------------------------------


def _but_last_two(look: Look) -> Axes:
    rank = len(look.outs[0].shape)
    return [(Axis.EACH, [(0, dim), (result(), dim)]) for dim in range(rank - 2)]


@rule("MatrixBandPart", axes=_but_last_two, exact=True)
def _band(use: Use) -> Value:
    """Keeps `lower` diagonals below the main one and `upper` above; a negative number keeps all."""
    lower, upper = use.known(1, "the lower bound")[0], use.known(2, "the upper bound")[0]
    node = use.tensor(0)
    if lower >= 0:
        node = use.emit(aten.triu.default, node, -lower)
    if upper >= 0:
        node = use.emit(aten.tril.default, node, upper)
    return node


def _one_hot_axes(look: Look) -> Axes:
    axis = (look.constant(4) or [-1])[0] % len(look.outs[0].shape)
    return [(Axis.EACH, [(0, dim), (result(), dim + (dim >= axis))]) for dim in range(len(look.ins[0].shape))]


@rule("OneHot", axes=_one_hot_axes, exact=True)
def _one_hot(use: Use) -> Value:
    """Operands: indices, depth, value where they match, value elsewhere, axis. An index that is out of range matches nothing."""
    axis = use.known(4, "the axis")[0] % len(use.shape())
    depth = use.shape()[axis]
    indices = use.emit(aten.unsqueeze.default, use.tensor(0), axis)
    classes = use.emit(aten.arange.start_step, 0, depth, 1, dtype=dtype_of(use.values[0]))
    shape = [depth if at == axis else 1 for at in range(len(use.shape()))]
    match = use.emit(aten.eq.Tensor, indices, use.emit(aten.view.default, classes, shape))
    on, off = (use.emit.operand(use.values[index], False) for index in (2, 3))
    return use.emit(aten.where.self, match, on, off)


def _last_is_own(look: Look) -> Axes:
    rank = len(look.ins[0].shape)
    return [(Axis.EACH, [(0, dim), (result(), dim)]) for dim in range(rank - 1)]


@rule("ConditionalArange", axes=_last_is_own, exact=True)
def _conditional_arange(use: Use) -> Value:
    """start, start + step, ... at the places along the last dim where the mask holds; -1 elsewhere."""
    start, step = use.known(1, "start")[0], use.known(2, "step")[0]
    emit, dtype = use.emit, use.dtype()
    mask = use.tensor(0)
    if dtype_of(mask) is not torch.bool:
        mask = emit(aten.ne.Scalar, mask, 0)
    count = emit(aten.cumsum.default, mask, -1)
    numbers = emit(aten.add.Tensor, emit(aten.mul.Tensor, count, step), start - step)
    found = emit(aten.where.ScalarOther, mask, numbers, -1)
    return emit(aten._to_copy.default, found, dtype=dtype) if dtype is not torch.int64 else found
