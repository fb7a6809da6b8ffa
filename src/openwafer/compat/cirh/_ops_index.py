"""Operations that pick and place elements by index, and those that order them."""

from __future__ import annotations

import torch
from torch import fx

from openwafer.compat.cirh._batch import Axes, Axis, Look, Member, result
from openwafer.compat.cirh._emit import Value, dtype_of
from openwafer.compat.cirh._ops_pointwise import cast
from openwafer.compat.cirh._ops_shape import view
from openwafer.compat.cirh._rules import Use, alike_but, rule

aten = torch.ops.aten


def _index(use: Use, operand: int) -> fx.Node:
    node = use.emit.tensor(cast(use, use.values[operand], torch.int64))
    return node


# --- gather -----------------------------------------------------------------------------------------------


def _picks_along(look: Look) -> bool:
    """Whether the indices have the data's rank and pick along one dim, and not whole slices."""
    data, index = len(look.ins[0].shape), len(look.ins[1].shape)
    return data == index and len(look.outs[0].shape) == data and data > 1


def _gather_axes(look: Look) -> Axes:
    axis = look.integer("axis")
    rank, count = len(look.ins[0].shape), len(look.ins[1].shape)
    if _picks_along(look):
        return [
            (Axis.EACH, [(1, dim), (result(), dim)])
            if dim == axis or look.ins[0].shape[dim] != look.ins[1].shape[dim]
            else (Axis.EACH, [(0, dim), (1, dim), (result(), dim)])
            for dim in range(rank)
        ]
    axes: Axes = [(Axis.EACH, [(0, dim), (result(), dim)]) for dim in range(axis)]
    axes += [(Axis.EACH, [(1, dim), (result(), axis + dim)]) for dim in range(count)]
    axes += [(Axis.EACH, [(0, dim), (result(), dim - 1 + count)]) for dim in range(axis + 1, rank)]
    return axes


@rule("Gather", axes=_gather_axes, exact=True)
def _gather(use: Use) -> Value:
    """Slices along `axis` for each index; or, where the indices have the data's rank, elements along it."""
    if use.integer("batch_dims", 0):
        raise use.refuse("batch_dims is not run here")
    axis = use.integer("axis")
    look = Look(use.op, use.ins, use.outs, use.numbers)
    if _picks_along(look):
        return use.emit(aten.gather.default, use.tensor(0), axis, _index(use, 1))
    flat = view(use.emit, _index(use, 1), [-1])
    if axis == 0 and len(use.ins[0].shape) == 2:
        node = use.emit(aten.embedding.default, use.tensor(0), flat)
    else:
        node = use.emit(aten.index_select.default, use.tensor(0), axis, flat)
    return view(use.emit, node, use.shape())


def _gather_nd_axes(look: Look) -> Axes:
    """Each row of the indices makes one row of the result."""
    count = len(look.ins[1].shape)
    return [(Axis.EACH, [(1, dim), (result(), dim)]) for dim in range(count - 1)]


@rule("GatherNd", axes=_gather_nd_axes, exact=True)
def _gather_nd(use: Use) -> Value:
    """data[index[..., 0], index[..., 1], ...]."""
    if use.integer("start_dim", 0):
        raise use.refuse("start_dim is not run here")
    flat, _ = _flat_index(use, use.ins[0].shape, 1)
    depth = use.ins[1].shape[-1]
    data = view(use.emit, use.tensor(0), [-1, *use.ins[0].shape[depth:]])
    node = use.emit(aten.index_select.default, data, 0, flat)
    return view(use.emit, node, use.shape())


def _flat_index(use: Use, shape: tuple[int, ...], operand: int) -> tuple[fx.Node, int]:
    """Rows of coordinates into the leading dims of `shape`, as places among all of their entries; and how many dims."""
    depth = use.ins[operand].shape[-1]
    rows = view(use.emit, _index(use, operand), [-1, depth])
    if depth == 1:
        return view(use.emit, rows, [-1]), depth
    total: fx.Node | None = None
    for dim in range(depth):
        step = 1
        for size in shape[dim + 1 : depth]:
            step *= size
        column = use.emit(aten.select.int, rows, 1, dim)
        part = column if step == 1 else use.emit(aten.mul.Tensor, column, step)
        total = part if total is None else use.emit(aten.add.Tensor, total, part)
    assert total is not None
    return total, depth


# --- scatter ----------------------------------------------------------------------------------------------


def _scatter_axes(look: Look) -> Axes:
    axis = look.integer("axis")
    adds = look.op.attributes.get("reduce_kind") == "ADD"
    axes: Axes = []
    for dim in range(len(look.ins[0].shape)):
        if dim == axis:
            axes.append((Axis.SUM if adds else Axis.EACH, [(1, dim), (2, dim)]))
        elif look.ins[1].shape[dim] == look.ins[0].shape[dim]:
            axes.append((Axis.EACH, [(0, dim), (1, dim), (2, dim), (result(), dim)]))
    return [entry for entry in axes if entry[0] is Axis.SUM or len(entry[1]) == 4]


@rule("Scatter", axes=_scatter_axes, exact=True)
def _scatter(use: Use) -> Value:
    """Operands: data, indices, updates, the last two alike; puts, adds or multiplies along `axis`."""
    kind = use.text("reduce_kind", "NONE", "ADD", "MUL")
    data, index, updates = use.tensor(0), _index(use, 1), use.tensor(2)
    axis = use.integer("axis")
    if kind == "NONE":
        return use.emit(aten.scatter.src, data, axis, index, updates)
    if kind == "ADD":
        return use.emit(aten.scatter_add.default, data, axis, index, updates)
    return use.emit(aten.scatter_reduce.two, data, axis, index, updates, "prod")


def _scatter_nd_axes(look: Look) -> Axes:
    depth = look.ins[1].shape[-1]
    rows = len(look.ins[1].shape) - 1
    axes: Axes = [(Axis.SUM, [(1, dim), (2, dim)]) for dim in range(rows)]
    for dim in range(depth, len(look.ins[0].shape)):
        members: list[Member] = [(0, dim), (2, rows + dim - depth), (result(), dim)]
        axes.append((Axis.EACH, members))
    return axes


@rule("ScatterNd", axes=_scatter_nd_axes)
def _scatter_nd(use: Use) -> Value:
    """data with updates added at data[index[..., 0], index[..., 1], ...]."""
    emit = use.emit
    flat, depth = _flat_index(use, use.ins[0].shape, 1)
    rest = list(use.ins[0].shape[depth:])
    updates = view(emit, use.tensor(2), [-1, *rest])
    data = view(emit, use.tensor(0), [-1, *rest])
    return view(emit, emit(aten.index_put.default, data, [flat], updates, True), use.shape())


# --- order ------------------------------------------------------------------------------------------------


@rule("TopK", axes=alike_but("dimension"), exact=True)
def _top_k(use: Use) -> tuple[Value, ...]:
    """Values and indices. A third operand and result (metadata) is not known here."""
    if len(use.values) != 1 or len(use.outs) != 2:
        raise use.refuse("only the form with one operand, values and indices is run here")
    node = use.emit(
        aten.topk.default,
        use.tensor(0), use.integer("k"), use.integer("dimension"), use.flag("largest"), use.flag("sorted"),
    )  # fmt: skip
    return use.emit.item(node, 0), cast(use, use.emit.item(node, 1), use.dtype(1))


@rule("NthOrderStatistic", axes=alike_but("dimension"), exact=True)
def _nth(use: Use) -> Value:
    """1 where an element is among the k largest of its dim, else 0."""
    dim = use.integer("dimension")
    top = use.emit(aten.topk.default, use.tensor(0), use.integer("k"), dim, True, True)
    zeros = use.emit(aten.full.default, use.shape(), 0, dtype=use.dtype())
    return use.emit(aten.scatter.value, zeros, dim, use.emit.item(top, 1), 1)


# --- sparse products --------------------------------------------------------------------------------------


def _masked_axes(look: Look) -> Axes:
    """Rows of the input, of their mask and of the result belong together."""
    rank = len(look.ins[0].shape)
    return [(Axis.EACH, [(0, dim), (1, dim), (result(), dim)]) for dim in range(rank - 1)]


@rule("SparseActMatMul", axes=_masked_axes)
def _masked_product(use: Use) -> Value:
    """Operands: input [..., M, N], row mask [..., M], weight [K, N] -> [..., M, K], zero where the mask is."""
    rows, mask = _masked_rows(use, 0, 1)
    node = use.emit(aten.mm.default, rows, use.emit(aten.t.default, use.tensor(2)))
    return view(use.emit, use.emit(aten.mul.Tensor, node, mask), use.shape())


def _masked_rows(use: Use, operand: int, mask: int) -> tuple[fx.Node, fx.Node]:
    source = use.tensor(operand)
    rows = view(use.emit, source, [-1, use.ins[operand].shape[-1]])
    kept = view(use.emit, use.emit.tensor(cast(use, use.values[mask], dtype_of(source))), [-1, 1])
    return rows, kept


def _masked_grad_axes(look: Look) -> Axes:
    """Operands: gradient, input, mask, weight. Results: gradients of input and weight."""
    rank = len(look.ins[0].shape)
    each: Axes = [(Axis.EACH, [(0, dim), (1, dim), (2, dim), (result(), dim)]) for dim in range(rank - 1)]
    return [*each, *((Axis.SUM, [(0, dim), (1, dim), (2, dim)]) for dim in range(rank - 1))]


@rule("SparseActMatMulGrad", axes=_masked_grad_axes)
def _masked_product_grad(use: Use) -> tuple[Value, ...]:
    """Operands: gradient, input, mask, weight. Results: gradients of input and weight."""
    rows, kept = _masked_rows(use, 0, 2)
    gradient = use.emit(aten.mul.Tensor, rows, kept)
    source = view(use.emit, use.tensor(1), [-1, use.ins[1].shape[-1]])
    to_input = use.emit(aten.mm.default, gradient, use.tensor(3))
    to_weight = use.emit(aten.mm.default, use.emit(aten.t.default, gradient), source)
    return view(use.emit, to_input, use.shape(0)), to_weight


def _ranged_axes(look: Look) -> Axes:
    if look.op.name == "RangedDMatMul":
        return [(Axis.SUM, [(0, 0), (1, 0), (3, 0)])]
    return [(Axis.EACH, [(1, 0), (2, 0), (result(), 0)])]


@rule("RangedMatMul", axes=_ranged_axes)
def _ranged_product(use: Use) -> Value:
    """Operands: weight [K, N], input [B, S, N], rows that count [B] -> [B, S, K]; the other rows are undefined."""
    rows = view(use.emit, use.tensor(1), [-1, use.ins[1].shape[-1]])
    node = use.emit(aten.mm.default, rows, use.emit(aten.t.default, use.tensor(0)))
    return view(use.emit, node, use.shape())


@rule("RangedDMatMul", axes=_ranged_axes)
def _ranged_weight_product(use: Use) -> Value:
    """Operands: gradient [B, S, K], input [B, S, N], weight, rows that count [B] -> gradient of the weight [K, N]."""
    emit = use.emit
    places = emit(aten.arange.start_step, 0, use.ins[0].shape[1], 1, dtype=torch.int64)
    counts = emit(aten.unsqueeze.default, _index(use, 3), 1)
    kept = emit(aten.unsqueeze.default, emit(aten.lt.Tensor, places, counts), 2)
    zero = emit.scalar(0.0, use.dtype())
    gradient, source = (emit(aten.where.self, kept, use.tensor(slot), zero) for slot in (0, 1))
    gradient = view(emit, gradient, [-1, use.ins[0].shape[-1]])
    source = view(emit, source, [-1, use.ins[1].shape[-1]])
    return emit(aten.mm.default, emit(aten.t.default, gradient), source)


def _sparse_axes(look: Look) -> Axes:
    """Operands: values [..., b, N], indices [..., b], weight [K, B, N]."""
    rows = len(look.ins[1].shape)
    return [(Axis.EACH, [(0, dim), (1, dim), (result(), dim)]) for dim in range(rows)]


@rule("SparseMatMul", axes=_sparse_axes)
def _sparse_product(use: Use) -> Value:
    """Row j of the values times the part of the weight that its index names -> [..., b, K]."""
    rows = view(use.emit, use.tensor(0), [-1, 1, use.ins[0].shape[-1]])
    parts = _picked_weight(use, 2, 1)
    return view(
        use.emit,
        use.emit(aten.bmm.default, rows, use.emit(aten.transpose.int, parts, 1, 2)),
        use.shape(),
    )


def _picked_weight(use: Use, weight: int, indices: int) -> fx.Node:
    """For each row its part of the weight, [rows, K, N]."""
    flat = view(use.emit, _index(use, indices), [-1])
    by_index = use.emit(aten.transpose.int, use.tensor(weight), 0, 1)
    return use.emit(aten.index_select.default, by_index, 0, flat)


def _sparse_grad_axes(look: Look) -> Axes:
    """Operands: gradient, values, indices, weight."""
    rows = len(look.ins[2].shape)
    each: Axes = [(Axis.EACH, [(0, dim), (1, dim), (2, dim), (result(), dim)]) for dim in range(rows)]
    return [*each, *((Axis.SUM, [(0, dim), (1, dim), (2, dim)]) for dim in range(rows))]


@rule("SparseMatMulGrad", axes=_sparse_grad_axes)
def _sparse_product_grad(use: Use) -> tuple[Value, ...]:
    """Results: gradients of the values and of the weight."""
    emit = use.emit
    gradient = view(emit, use.tensor(0), [-1, 1, use.ins[0].shape[-1]])
    values = view(emit, use.tensor(1), [-1, 1, use.ins[1].shape[-1]])
    to_values = emit(aten.bmm.default, gradient, _picked_weight(use, 3, 2))
    outer = emit(aten.bmm.default, emit(aten.transpose.int, gradient, 1, 2), values)
    kept, wide, inner = use.ins[3].shape
    zeros = emit(aten.zeros.default, [wide, kept, inner], dtype=use.dtype(1))
    flat = view(emit, _index(use, 2), [-1])
    added = emit(aten.index_put.default, zeros, [flat], outer, True)
    to_weight = emit(aten.clone.default, emit(aten.transpose.int, added, 0, 1))
    return view(emit, to_values, use.shape(0)), to_weight
