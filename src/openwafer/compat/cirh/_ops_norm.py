"""Normalisations, softmax and cross entropy, with their gradients."""

from __future__ import annotations

import torch
from torch import fx

from openwafer.compat.cirh._batch import Axes, Axis, Look, result
from openwafer.compat.cirh._emit import Value, dtype_of
from openwafer.compat.cirh._fuse import SOFTMAX_GRAD
from openwafer.compat.cirh._ops_shape import view
from openwafer.compat.cirh._rules import Use, alike_but, rule

aten = torch.ops.aten


@rule("Softmax", axes=alike_but("axis"))
def _softmax(use: Use) -> Value:
    return use.emit(aten._softmax.default, use.tensor(0), use.integer("axis", -1), False)


@rule(SOFTMAX_GRAD, axes=alike_but("axis"))
def _softmax_grad(use: Use) -> Value:
    """Not the client's: `_fuse` makes it. Operands: gradient, result of the softmax."""
    return use.emit(
        aten._softmax_backward_data.default, use.tensor(0), use.tensor(1), use.integer("axis"), use.dtype()
    )


# --- layer norm -------------------------------------------------------------------------------------------


def _layer_norm_axes(look: Look) -> Axes:
    gamma = len(look.ins[-1].shape)
    source = 1 if look.op.name == "LayerNormGrad" else 0
    rank = len(look.ins[source].shape)
    slots = [0, result()] if source == 0 else [0, 1, result()]
    axes: Axes = [(Axis.EACH, [(slot, dim) for slot in slots]) for dim in range(rank - gamma)]
    if source == 1:
        axes += [(Axis.SUM, [(0, dim), (1, dim)]) for dim in range(rank - gamma)]
    return axes


@rule("LayerNorm", axes=_layer_norm_axes)
def _layer_norm(use: Use) -> Value:
    """Operands: input, beta, gamma; over the dims that gamma has."""
    return use.emit.item(_normalised(use, use.tensor(0), use.tensor(2), use.tensor(1)), 0)


def _normalised(use: Use, source: fx.Node, gamma: fx.Node, beta: fx.Node) -> fx.Node:
    """The node that makes (result, mean, 1/deviation); the gradient finds the one of the forward again."""
    key = (source, gamma, beta, use.number("epsilon"))
    if key not in use.emit.shared:
        shape = list(gamma.meta["val"].shape)
        use.emit.shared[key] = use.emit(
            aten.native_layer_norm.default, source, shape, gamma, beta, use.number("epsilon")
        )
    return use.emit.shared[key]


@rule("LayerNormGrad", axes=_layer_norm_axes)
def _layer_norm_grad(use: Use) -> tuple[Value, ...]:
    """Operands: gradient, input, beta, gamma. Results: gradients of input, beta, gamma."""
    gradient, source, beta, gamma = (use.tensor(i) for i in range(4))
    forward = _normalised(use, source, gamma, beta)
    node = use.emit(
        aten.native_layer_norm_backward.default,
        gradient, source, list(gamma.meta["val"].shape),
        use.emit.item(forward, 1), use.emit.item(forward, 2), gamma, beta, [True, True, True],
    )  # fmt: skip
    return use.emit.item(node, 0), use.emit.item(node, 2), use.emit.item(node, 1)


# --- group norm -------------------------------------------------------------------------------------------


def _group_norm_axes(look: Look) -> Axes:
    if look.op.name == "GroupNorm":
        return [(Axis.EACH, [(0, 0), (result(), 0)])]
    return [(Axis.EACH, [(0, 0), (1, 0), (result(), 0)]), (Axis.SUM, [(0, 0), (1, 0)])]


def _groups(use: Use, source: fx.Node, gamma: fx.Node | None, beta: fx.Node | None) -> fx.Node:
    key = (source, "groups", use.integer("num_groups"), use.number("epsilon", 1e-5))
    if key not in use.emit.shared:
        samples, channels = source.meta["val"].shape[:2]
        count = source.meta["val"][0, 0].numel()
        use.emit.shared[key] = use.emit(
            aten.native_group_norm.default,
            source, gamma, beta, samples, channels, count, use.integer("num_groups"), use.number("epsilon", 1e-5),
        )  # fmt: skip
    return use.emit.shared[key]


@rule("GroupNorm", axes=_group_norm_axes)
def _group_norm(use: Use) -> Value:
    """Operands: input [N, C, ...] and, if affine, gamma and beta, as [groups, C / groups]."""
    use.text("data_format", "NCHW", "NCDHW", "NCL", "NCW")
    gamma, beta = _affine(use, 1), _affine(use, 2)
    return use.emit.item(_groups(use, use.tensor(0), gamma, beta), 0)


def _affine(use: Use, index: int) -> fx.Node | None:
    return view(use.emit, use.tensor(index), [-1]) if len(use.values) > index else None


@rule("GroupNormGrad", axes=_group_norm_axes)
def _group_norm_grad(use: Use) -> tuple[Value, ...]:
    """Operands: gradient, input and, if affine, gamma. Results: gradients of input, gamma, beta.

    The operation does not say epsilon: it is that of the GroupNorm of the same input.
    """
    gradient, source = use.tensor(0), use.tensor(1)
    gamma = _affine(use, 2)
    known = [
        node
        for key, node in use.emit.shared.items()
        if key[:3] == (source, "groups", use.integer("num_groups"))
    ]
    forward = known[0] if known else _groups(use, source, gamma, None)
    samples, channels = source.meta["val"].shape[:2]
    node = use.emit(
        aten.native_group_norm_backward.default,
        gradient, source, use.emit.item(forward, 1), use.emit.item(forward, 2), gamma,
        samples, channels, source.meta["val"][0, 0].numel(), use.integer("num_groups"),
        [True, len(use.outs) > 1, len(use.outs) > 2],
    )  # fmt: skip
    parts = [use.emit.item(node, index) for index in range(len(use.outs))]
    return tuple(view(use.emit, part, use.shape(index)) for index, part in enumerate(parts))


# --- batch norm -------------------------------------------------------------------------------------------


def _batch_norm_axes(look: Look) -> Axes:
    if look.op.attributes.get("is_training", True):
        return []  # each sample is measured by all of them
    if look.op.name == "FusedBatchNorm":
        return [(Axis.EACH, [(0, 0), (result(), 0)])]
    return []


@rule("FusedBatchNorm", axes=_batch_norm_axes)
def _batch_norm(use: Use) -> tuple[Value, ...]:
    """Operands: input, gamma, beta, running mean, running variance.

    Results: output; while training, the new running mean and variance, else those that it was given.
    """
    source, gamma, beta, mean, variance = (use.tensor(i) for i in range(5))
    training = use.flag("is_training")
    momentum, epsilon = use.number("exponential_avg_factor", 0.1), use.number("epsilon", 1e-5)
    if not training:
        node = use.emit(
            aten._native_batch_norm_legit_no_training.default,
            source, gamma, beta, mean, variance, momentum, epsilon,
        )  # fmt: skip
        return use.emit.item(node, 0), mean, variance
    node = use.emit(
        aten._native_batch_norm_legit_functional.default,
        source, gamma, beta, mean, variance, True, momentum, epsilon,
    )  # fmt: skip
    use.emit.shared[source, "batch", epsilon] = node
    return use.emit.item(node, 0), use.emit.item(node, 3), use.emit.item(node, 4)


@rule("FusedBatchNormGrad", axes=_batch_norm_axes)
def _batch_norm_grad(use: Use) -> tuple[Value, ...]:
    """Operands: gradient, input, gamma. Results: gradients of input, gamma, beta; measured on the batch itself."""
    if not use.flag("is_training"):
        raise use.refuse("the gradient of a batch norm in evaluation mode is not run here")
    gradient, source, gamma = (use.tensor(i) for i in range(3))
    epsilon = use.number("epsilon", 1e-5)
    forward = use.emit.shared.get((source, "batch", epsilon))
    if forward is None:
        raise use.refuse("no FusedBatchNorm of the same input stands before it")
    node = use.emit(
        aten.native_batch_norm_backward.default,
        gradient, source, gamma, None, None, use.emit.item(forward, 1), use.emit.item(forward, 2),
        True, epsilon, [True, True, True],
    )  # fmt: skip
    return use.emit.item(node, 0), use.emit.item(node, 1), use.emit.item(node, 2)


# --- cross entropy ----------------------------------------------------------------------------------------


def _sparse_loss_axes(look: Look) -> Axes:
    axis = look.integer("axis", -1) % len(look.ins[0].shape)
    kept = [dim for dim in range(len(look.ins[0].shape)) if dim != axis]
    return [(Axis.EACH, [(0, dim), (1, at), (result(), at), (result(1), dim)]) for at, dim in enumerate(kept)]


@rule("SparseSoftmaxCrossEntropyWithLogits", axes=_sparse_loss_axes)
def _sparse_loss(use: Use) -> tuple[Value, ...]:
    """Operands: logits, classes. Results: -log p(class) of each row, and softmax - one-hot, its gradient.

    A class of -100, which ATen ignores, has loss and gradient 0.
    """
    emit = use.emit
    shape = list(use.ins[0].shape)
    axis = use.integer("axis", -1) % len(shape)
    if axis != len(shape) - 1:
        raise use.refuse(f"classes must be the last dim, not dim {axis}")
    logits = view(emit, use.tensor(0), [-1, shape[-1]])
    target = view(emit, use.tensor(1), [-1])
    if dtype_of(target) is not torch.int64:
        target = emit(aten._to_copy.default, target, dtype=torch.int64)
    log_p = emit(aten._log_softmax.default, logits, 1, False)
    loss = emit(aten.nll_loss_forward.default, log_p, target, None, 0, -100)
    ones = emit(aten.full.default, [logits.meta["val"].shape[0]], 1.0, dtype=dtype_of(logits))
    picked = emit(aten.nll_loss_backward.default, ones, log_p, target, None, 0, -100, emit.item(loss, 1))
    gradient = emit(aten._log_softmax_backward_data.default, picked, log_p, 1, dtype_of(logits))
    return view(emit, emit.item(loss, 0), use.shape(0)), view(emit, gradient, use.shape(1))


def _soft_loss_axes(look: Look) -> Axes:
    axis = look.integer("axis", -1) % len(look.ins[0].shape)
    kept = [dim for dim in range(len(look.ins[0].shape)) if dim != axis]
    return [
        (Axis.EACH, [(0, dim), (1, dim), (result(), at), (result(1), dim)]) for at, dim in enumerate(kept)
    ]


@rule("SoftmaxCrossEntropyWithLogits", axes=_soft_loss_axes)
def _soft_loss(use: Use) -> tuple[Value, ...]:
    """Operands: logits, probabilities. Results: -sum(p log softmax) of each row, and its gradient."""
    emit = use.emit
    axis = use.integer("axis", -1) % len(use.ins[0].shape)
    logits, wanted = use.tensor(0), use.tensor(1)
    log_p = emit(aten._log_softmax.default, logits, axis, False)
    loss = emit(aten.neg.default, emit(aten.sum.dim_IntList, emit(aten.mul.Tensor, wanted, log_p), [axis]))
    gradient = emit(
        aten._log_softmax_backward_data.default,
        emit(aten.neg.default, wanted), log_p, axis, dtype_of(logits),
    )  # fmt: skip
    return loss, gradient
