"""Products, convolutions and reductions: operations that add up."""

from __future__ import annotations

import torch
from torch import fx

from openwafer.compat.cirh._batch import Axes, Axis, Look, Member, result
from openwafer.compat.cirh._emit import Value, dtype_of
from openwafer.compat.cirh._ops_pointwise import cast
from openwafer.compat.cirh._ops_shape import view
from openwafer.compat.cirh._rules import Use, alike_but, rule

aten = torch.ops.aten


# --- products ---------------------------------------------------------------------------------------------


def _matmul_axes(look: Look) -> Axes:
    left, right = len(look.ins[0].shape), len(look.ins[1].shape)
    rank = len(look.outs[0].shape)
    flip_a, flip_b = bool(look.op.attributes.get("transpose_a")), bool(look.op.attributes.get("transpose_b"))
    row, inner = (left - 1, left - 2) if flip_a else (left - 2, left - 1)
    inner_b, column = (right - 1, right - 2) if flip_b else (right - 2, right - 1)
    axes: Axes = [
        (Axis.EACH, [(0, row), (result(), rank - 2)]),
        (Axis.EACH, [(1, column), (result(), rank - 1)]),
        (Axis.SUM, [(0, inner), (1, inner_b)]),
    ]
    for back in range(3, rank + 1):
        members: list[Member] = [(result(), rank - back)]
        members += [(0, left - back)] if left >= back else []
        members += [(1, right - back)] if right >= back else []
        axes.append((Axis.EACH, members))
    return axes


@rule("MatMul", axes=_matmul_axes)
def _matmul(use: Use) -> Value:
    left, right = use.tensor(0), use.tensor(1)
    if use.flag("transpose_a"):
        left = _transposed(use, left)
    if use.flag("transpose_b"):
        right = _transposed(use, right)
    ranks = len(use.ins[0].shape), len(use.ins[1].shape)
    if ranks == (2, 2):
        return use.emit(aten.mm.default, left, right)
    if ranks[1] == 2 and not use.flag("transpose_a"):
        rows = view(use.emit, left, [-1, use.ins[0].shape[-1]])
        return view(use.emit, use.emit(aten.mm.default, rows, right), use.shape())
    batch = use.shape()[:-2]
    parts = []
    for node in (left, right):
        shape = list(node.meta["val"].shape)
        if shape[:-2] != batch:
            node = use.emit(aten.expand.default, node, [*batch, *shape[-2:]])
        parts.append(view(use.emit, node, [-1, *shape[-2:]]))
    return view(use.emit, use.emit(aten.bmm.default, *parts), use.shape())


def _transposed(use: Use, node: fx.Node) -> fx.Node:
    if node.meta["val"].ndim == 2:
        return use.emit(aten.t.default, node)
    return use.emit(aten.transpose.int, node, -2, -1)


_DOT = (
    "lhs_batching_dimensions",
    "rhs_batching_dimensions",
    "lhs_contracting_dimensions",
    "rhs_contracting_dimensions",
)


def _dot_axes(look: Look) -> Axes:
    batch_a, batch_b, inner_a, inner_b = (look.dims(key) for key in _DOT)
    axes: Axes = [
        (Axis.EACH, [(0, a), (1, b), (result(), i)])
        for i, (a, b) in enumerate(zip(batch_a, batch_b, strict=True))
    ]
    axes += [(Axis.SUM, [(0, a), (1, b)]) for a, b in zip(inner_a, inner_b, strict=True)]
    position = len(batch_a)
    for slot, own in ((0, {*batch_a, *inner_a}), (1, {*batch_b, *inner_b})):
        for dim in range(len(look.ins[slot].shape)):
            if dim not in own:
                axes.append((Axis.EACH, [(slot, dim), (result(), position)]))
                position += 1
    return axes


@rule("DotGeneral", axes=_dot_axes)
def _dot(use: Use) -> Value:
    """Batched product; the result has the batching dims, then what is left of the left side, then of the right."""
    dims = [use.list_of(key) for key in _DOT]
    sides = []
    for slot, (batch, inner) in enumerate(((dims[0], dims[2]), (dims[1], dims[3]))):
        shape = use.ins[slot].shape
        free = [dim for dim in range(len(shape)) if dim not in (*batch, *inner)]
        order = [*batch, *free, *inner] if slot == 0 else [*batch, *inner, *free]
        node = use.tensor(slot)
        sizes = [
            _count(shape, batch),
            _count(shape, free if slot == 0 else inner),
            _count(shape, inner if slot == 0 else free),
        ]
        sides.append(_arranged(use, node, order, sizes, batch, free, inner, slot))
    return view(use.emit, use.emit(aten.bmm.default, *sides), use.shape())


def _arranged(
    use: Use,
    node: fx.Node,
    order: list[int],
    sizes: list[int],
    batch: list[int],
    free: list[int],
    inner: list[int],
    slot: int,
) -> fx.Node:
    """One side as [batch, rows, columns]; where only the last two dims change places, as a view."""
    rank = len(order)
    wanted = [*batch, *inner, *free] if slot == 0 else [*batch, *free, *inner]
    if order != list(range(rank)) and wanted == list(range(rank)) and len(free) == len(inner) == 1:
        flat = view(use.emit, node, [sizes[0], sizes[2], sizes[1]])
        return use.emit(aten.transpose.int, flat, 1, 2)
    if order != list(range(rank)):
        node = use.emit(aten.permute.default, node, order)
    return view(use.emit, node, sizes)


def _count(shape: tuple[int, ...], dims: list[int]) -> int:
    found = 1
    for dim in dims:
        found *= shape[dim]
    return found


def _weight_product_axes(look: Look) -> Axes:
    """gradient [H, S] x input [I, S] -> [H, I]: summed over S."""
    return [
        (Axis.SUM, [(0, 1), (1, 1)]),
        (Axis.EACH, [(0, 0), (result(), 0)]),
        (Axis.EACH, [(1, 0), (result(), 1)]),
    ]


@rule("DMatMul", axes=_weight_product_axes)
def _weight_product(use: Use) -> Value:
    """Operands: gradient [H, S], input [I, S], weight [H, I] -> the weight's gradient."""
    return use.emit(aten.mm.default, use.tensor(0), use.emit(aten.t.default, use.tensor(1)))


# --- convolutions -----------------------------------------------------------------------------------------


def _convolution_axes(look: Look) -> Axes:
    if look.op.attributes.get("conv_pass_direction") == "BWD_KERNEL":
        return [(Axis.SUM, [(0, 0), (1, 0)])]
    return [(Axis.EACH, [(0, 0), (result(), 0)])]


@rule("Convolution", axes=_convolution_axes)
def _convolution(use: Use) -> Value:
    """FWD: input, kernel. BWD_INPUT: gradient, kernel -> gradient of the input. BWD_KERNEL: input, gradient -> of the kernel.

    Layouts are channels first (NCL, NCHW, NCDHW), kernels [out, in, ...], transposed ones [in, out, ...].
    """
    use.text("data_format", "NCL", "NCW", "NCHW", "NCDHW")
    direction = use.text("conv_pass_direction", "FWD", "BWD_INPUT", "BWD_KERNEL")
    stride, padding, dilation = (use.list_of(key) for key in ("stride", "padding", "dilation"))
    groups = use.integer("groups", 1)
    transposed = use.flag("transposed")
    if direction == "FWD":
        spare = [0] * len(stride)
        if transposed:
            spare = [
                out - ((size - 1) * step - 2 * pad + gap * (kernel - 1) + 1)
                for out, size, step, pad, gap, kernel in zip(
                    use.shape()[2:],
                    use.ins[0].shape[2:],
                    stride,
                    padding,
                    dilation,
                    use.ins[1].shape[2:],
                    strict=True,
                )
            ]
        return use.emit(
            aten.convolution.default,
            use.tensor(0), use.tensor(1), None, stride, padding, dilation, transposed, spare, groups,
        )  # fmt: skip
    # The forward was transposed if its gradient's input pass is not, and the other way round.
    was_transposed = not transposed if direction == "BWD_INPUT" else transposed
    if was_transposed:
        raise use.refuse("the gradient of a transposed convolution is not run here")
    gradient, other = (
        (use.tensor(0), use.tensor(1)) if direction == "BWD_INPUT" else (use.tensor(1), use.tensor(0))
    )
    # ATen reads of the input and the kernel that are not asked for only their shapes.
    empty = use.emit(aten.empty.memory_format, use.shape(), dtype=dtype_of(gradient))
    source, kernel = (empty, other) if direction == "BWD_INPUT" else (other, empty)
    wanted = [direction == "BWD_INPUT", direction == "BWD_KERNEL", False]
    node = use.emit(
        aten.convolution_backward.default,
        gradient, source, kernel, None, stride, padding, dilation, False, [0] * len(stride), groups, wanted,
    )  # fmt: skip
    return use.emit.item(node, 0 if direction == "BWD_INPUT" else 1)


def _bias_axes(look: Look) -> Axes:
    dim = look.integer("dim")
    return [
        (Axis.EACH, [(0, at), (result(), at), *([(1, 0)] if at == dim else [])])
        for at in range(len(look.ins[0].shape))
    ]


@rule("BiasAdd", axes=_bias_axes)
def _bias_add(use: Use) -> Value:
    dim = use.integer("dim")
    shape = [size if at == dim else 1 for at, size in enumerate(use.shape())]
    return use.emit(aten.add.Tensor, use.tensor(0), use.emit(aten.view.default, use.tensor(1), shape))


def _bias_grad_axes(look: Look) -> Axes:
    dim = look.integer("dim")
    return [
        (Axis.EACH, [(0, at), (result(), 0)]) if at == dim else (Axis.SUM, [(0, at)])
        for at in range(len(look.ins[0].shape))
    ]


@rule("BiasAddGrad", "ReduceBias", axes=_bias_grad_axes)
def _bias_grad(use: Use) -> Value:
    dims = [at for at in range(len(use.ins[0].shape)) if at != use.integer("dim")]
    return use.emit(aten.sum.dim_IntList, use.tensor(0), dims, False, dtype=use.dtype())


# --- reductions -------------------------------------------------------------------------------------------

_REDUCE = {"ADD", "MUL", "MAX", "MIN", "OR", "AND", "MEAN", "ARGMAX", "ARGMIN"}


def _kept_axes(kind: Axis | None, look: Look, dims: list[int]) -> Axes:
    """Dims that stay, with where they are in the result, and those that go."""
    rank = len(look.ins[0].shape)
    gone = {dim % rank for dim in dims} if rank else set()
    same = len(look.outs[0].shape) == rank
    kept = [dim for dim in range(rank) if dim not in gone]
    axes: Axes = [
        (Axis.EACH, [(0, dim), (result(), dim if same else position)]) for position, dim in enumerate(kept)
    ]
    if kind is not None:
        axes += [(kind, [(0, dim)]) for dim in gone]
    return axes


def _reduce_axes(look: Look) -> Axes:
    adds = look.op.attributes.get("reduce_kind") == "ADD"
    return _kept_axes(Axis.SUM if adds else None, look, look.dims("dimensions"))


@rule("Reduce", axes=_reduce_axes)
def _reduce(use: Use) -> Value:
    kind = use.text("reduce_kind", *sorted(_REDUCE))
    rank = len(use.ins[0].shape)
    dims = [dim % rank for dim in use.list_of("dimensions")]
    source = use.tensor(0)
    if not dims:
        return source
    return view(use.emit, _reduced(use, source, kind, dims), use.shape())


def _reduced(use: Use, source: fx.Node, kind: str, dims: list[int]) -> fx.Node:
    emit, dtype = use.emit, use.dtype()
    if kind == "ADD":
        if dtype is torch.bool:
            return emit(aten.any.dims, source, dims, True)
        return emit(aten.sum.dim_IntList, source, dims, True, dtype=dtype)
    if kind == "MEAN":
        return emit(aten.mean.dim, source, dims, True, dtype=dtype)
    if kind in ("OR", "AND"):
        target = aten.any.dims if kind == "OR" else aten.all.dims
        node = emit(target, source, dims, True)
        return node if dtype is torch.bool else emit(aten._to_copy.default, node, dtype=dtype)
    if kind in ("MAX", "MIN"):
        return emit(aten.amax.default if kind == "MAX" else aten.amin.default, source, dims, True)
    if kind == "MUL":
        for dim in dims:
            source = emit(aten.prod.dim_int, source, dim, True, dtype=dtype)
        return source
    if len(dims) != 1:
        raise use.refuse(f"{kind} over several dims is not run here")
    node = emit(aten.argmax.default if kind == "ARGMAX" else aten.argmin.default, source, dims[0], True)
    return node if dtype is torch.int64 else emit(aten._to_copy.default, node, dtype=dtype)


@rule("L2Norm", axes=lambda look: _kept_axes(None, look, look.dims("dims")))
def _l2_norm(use: Use) -> Value:
    node = use.emit(
        aten.linalg_vector_norm.default, use.tensor(0), 2, use.list_of("dims"), use.flag("keepdim")
    )
    return view(use.emit, node, use.shape())


@rule("CumSum", "CumProd", axes=alike_but("axis"))
def _cumulate(use: Use) -> Value:
    """Along `axis`, from its end if `reverse`; `exclusive` leaves each element's own value out."""
    emit, axis = use.emit, use.integer("axis") % len(use.shape())
    adds = use.op.name == "CumSum"
    node = use.tensor(0)
    if use.flag("reverse"):
        node = emit(aten.flip.default, node, [axis])
    if use.flag("exclusive"):
        sizes = [0] * (2 * len(use.shape()))
        sizes[2 * (len(use.shape()) - 1 - axis)] = 1
        node = emit(aten.constant_pad_nd.default, node, sizes, 0 if adds else 1)
        node = emit(aten.slice.Tensor, node, axis, 0, use.shape()[axis])
    node = emit(aten.cumsum.default if adds else aten.cumprod.default, node, axis, dtype=use.dtype())
    return emit(aten.flip.default, node, [axis]) if use.flag("reverse") else node


@rule("Pool", axes=lambda look: [(Axis.EACH, [(slot, dim) for slot in (0, 1, result())]) for dim in (0, 1)])
def _pool(use: Use) -> Value:
    """Operands: input and, with `gradient`, the gradient; [N, C, D, H, W]. Averages leave padding out of their count."""
    kind = use.text("pool_type", "MAX", "AVERAGE", "ARGMAX")
    use.text("data_format", "NCDHW")
    sizes, steps, gaps = (use.list_of(key) for key in ("ksize", "strides", "dilation"))
    pads = use.list_of("padding")
    if sizes[:2] != [1, 1] or steps[:2] != [1, 1] or pads[0::2] != pads[1::2]:
        raise use.refuse(
            "a pool over samples or channels, or with different padding at both ends, is not run here"
        )
    window, stride, padding, dilation = sizes[2:], steps[2:], pads[4::2], gaps[2:]
    # How the last window is cut off shows in the result's size.
    rounds_up = any(
        out != (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for out, size, pad, gap, kernel, step in zip(
            use.ins[1].shape[2:] if use.flag("gradient") else use.shape()[2:],
            use.ins[0].shape[2:], padding, dilation, window, stride, strict=True,
        )
    )  # fmt: skip
    emit, source = use.emit, use.tensor(0)
    if kind == "AVERAGE":
        if use.flag("gradient"):
            return emit(
                aten.avg_pool3d_backward.default,
                use.tensor(1), source, window, stride, padding, rounds_up, _counts_padding(use), None,
            )  # fmt: skip
        return emit(
            aten.avg_pool3d.default, source, window, stride, padding, rounds_up, _counts_padding(use), None
        )
    found = emit(aten.max_pool3d_with_indices.default, source, window, stride, padding, dilation, rounds_up)
    if use.flag("gradient"):
        return emit(
            aten.max_pool3d_with_indices_backward.default,
            use.tensor(1), source, window, stride, padding, dilation, rounds_up, emit.item(found, 1),
        )  # fmt: skip
    if kind == "MAX":
        return emit.item(found, 0)
    return cast(use, emit.item(found, 1), use.dtype())


def _counts_padding(use: Use) -> bool:
    return bool(use.op.attributes.get("count_include_pad", False))
