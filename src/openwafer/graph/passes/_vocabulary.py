"""Keep a large vocabulary from setting the peak: projection and cross entropy in chunks of rows, logits never whole.

    logits = h @ W.T (+ b);  loss = cross_entropy(logits, target)          two [N, V] tensors kept, three at once
    ->  linear_loss(h, W, b, target)                                        one chunk of rows at a time

The backward makes the logits of a chunk again: a third more arithmetic in this layer, none elsewhere. Sums over rows are
added chunk by chunk, so that results differ from the whole tensor's in the last bits.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from openwafer.base import MIB
from openwafer.graph.ir import StepGraph, is_view, op_name
from openwafer.graph.passes._clean import WaferOp

LINEAR_LOSS = WaferOp("wafer.linear_loss")
"""linear_loss(h, W, bias, target, reduction, ignore_index, rows, dtype) -> (loss, number of targets)."""
LINEAR_LOSS_BACKWARD = WaferOp("wafer.linear_loss_backward")
"""linear_loss_backward(gradient, h, W, bias, target, count, reduction, ignore_index, rows, dtype) -> (dh, dW, db)."""

CHUNK_FROM_BYTES = 128 * MIB
"""float32 logits of at least this size are chunked."""
CHUNK_BYTES = 32 * MIB

aten = torch.ops.aten


@dataclass
class Head:
    """The nodes of one projection with cross entropy, forward and backward."""

    product: fx.Node
    h: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    loss: fx.Node
    backward: fx.Node | None = None
    gradient_h: list[fx.Node] = field(default_factory=list)
    gradient_w: list[fx.Node] = field(default_factory=list)
    gradient_w_transposed: list[fx.Node] = field(default_factory=list)
    gradient_b: list[fx.Node] = field(default_factory=list)


def chunk_vocabulary(step: StepGraph) -> int:
    """Rewrite every large projection whose only use is a cross entropy; returns how many."""
    count = 0
    for node in list(step.graph.nodes):
        if node.target is aten._log_softmax.default and _bytes(node) >= CHUNK_FROM_BYTES:
            match = match_head(node)
            if match is not None:
                _rewrite(step, match)
                count += 1
    if count:
        step.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return count


def match_head(softmax: fx.Node) -> Head | None:
    """The projection and cross entropy around a log-softmax; None if they are not that, or something else reads them."""
    logits = softmax.args[0]
    product = _through(logits)
    if product is None or product.target not in (aten.mm.default, aten.addmm.default):
        return None
    *first, h, transposed = product.args
    if (
        not isinstance(transposed, fx.Node)
        or transposed.target is not aten.t.default
        or not isinstance(h, fx.Node)
    ):
        return None
    weight = transposed.args[0]
    bias = first[0] if first else None
    losses = [user for user in softmax.users if user.target is aten.nll_loss_forward.default]
    if len(losses) != 1 or losses[0].args[2] is not None or not isinstance(weight, fx.Node):
        return None
    if softmax.meta["val"].shape != product.meta["val"].shape:  # some rows were left out on the way
        return None
    match = Head(product, h, weight, bias if isinstance(bias, fx.Node) else None, losses[0])
    others = [user for user in softmax.users if user is not losses[0]]
    if not _only_read_by(product, softmax):
        return None
    if not others:
        return match
    picked = [user for user in others if user.target is aten.nll_loss_backward.default]
    spread = [user for user in others if user.target is aten._log_softmax_backward_data.default]
    if len(picked) != 1 or len(spread) != 1 or len(others) != 2 or list(picked[0].users) != spread:
        return None
    match.backward = picked[0]
    return match if _match_gradients(match, spread[0]) else None


def _match_gradients(match: Head, gradient: fx.Node) -> bool:
    """Sort the uses of the logits' gradient; False if one of them is none of the three that a projection has."""
    stack, rows = [gradient], match.h.meta["val"].shape[0]
    while stack:
        node = stack.pop()
        for user in node.users:
            if user.target in (
                aten.view.default,
                aten._unsafe_view.default,
                aten._to_copy.default,
                aten.t.default,
            ):
                stack.append(user)
            elif user.target is aten.sum.dim_IntList and user.args[0] is node:
                match.gradient_b.append(user)
            elif user.target is aten.mm.default:
                left, right = user.args
                if left is node and node.meta["val"].shape[0] == rows:
                    match.gradient_h.append(user)
                elif left is node and right is match.h:
                    match.gradient_w.append(user)
                elif right is node and isinstance(left, fx.Node) and left.all_input_nodes == [match.h]:
                    match.gradient_w_transposed.append(user)
                else:
                    return False
            else:
                return False
    return max(map(len, (match.gradient_h, match.gradient_b))) <= 1


def chunk_rows(vocabulary: int) -> int:
    """Rows of logits over so many words that make one chunk."""
    return max(1, CHUNK_BYTES // (4 * vocabulary))


def _rewrite(step: StepGraph, match: Head) -> None:
    graph, loss = step.graph, match.loss
    target, reduction, ignored = loss.args[1], loss.args[3], loss.args[4]
    vocabulary = match.weight.meta["val"].shape[0]
    rows = chunk_rows(vocabulary)
    softmax_input = loss.args[0].args[0]  # type: ignore[union-attr]
    dtype = softmax_input.meta["val"].dtype  # type: ignore[union-attr]
    settings = (reduction, ignored, rows, dtype)
    with graph.inserting_before(loss):
        made = graph.call_function(LINEAR_LOSS, (match.h, match.weight, match.bias, target, *settings))
        made.meta = dict(loss.meta)
    loss.replace_all_uses_with(made)
    if match.backward is None:
        return
    gradient, count = match.backward.args[0], match.backward.args[6]
    with graph.inserting_before(match.backward):
        back = graph.call_function(
            LINEAR_LOSS_BACKWARD, (gradient, match.h, match.weight, match.bias, target, count, *settings)
        )
        h, weight = match.h.meta["val"], match.weight.meta["val"]
        bias = weight[:, 0] if match.bias is None else match.bias.meta["val"]
        back.meta = {
            **match.backward.meta,
            "val": (torch.empty_like(h), torch.empty_like(weight), torch.empty_like(bias)),
        }
        parts = []
        for index, value in enumerate(back.meta["val"]):
            part = graph.call_function(operator.getitem, (back, index))
            part.meta = {**match.backward.meta, "val": value}
            parts.append(part)
    for node in match.gradient_h:
        node.replace_all_uses_with(parts[0])
    for node in match.gradient_w:
        node.replace_all_uses_with(parts[1])
    for node in match.gradient_w_transposed:
        _replace(graph, node, aten.t.default, (parts[1],))
    for node in match.gradient_b:
        _replace(graph, node, aten.view.default, (parts[2], list(node.meta["val"].shape)))


def _replace(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    with graph.inserting_before(node):
        made = graph.call_function(target, args)
        made.meta = dict(node.meta)
    node.replace_all_uses_with(made)


def _through(node: Any) -> fx.Node | None:
    """Follow views and casts to where a value was computed."""
    while isinstance(node, fx.Node) and (is_view(node) or op_name(node) == "aten._to_copy.default"):
        if len(node.users) != 1:
            return None
        node = node.all_input_nodes[0]
    return node if isinstance(node, fx.Node) and node.op == "call_function" else None


def _only_read_by(product: fx.Node, softmax: fx.Node) -> bool:
    """Whether nothing but the softmax reads the logits, through views and casts."""
    node = product
    while node is not softmax:
        if len(node.users) != 1:
            return False
        node = next(iter(node.users))
    return True


def _bytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return 4 * value.numel() if value.ndim == 2 else 0
