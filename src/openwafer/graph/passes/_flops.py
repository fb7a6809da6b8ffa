"""Arithmetic of a node: two FLOPs per multiply-add of the matrix products, which are nearly all of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import fx

from openwafer.graph.ir import op_name

_LOSSES = {
    "wafer.linear_loss": 0,
    "wafer.linear_loss_backward": 1,
    "wafer.shard_loss": 1,
    "wafer.shard_loss_backward": 1,
}
"""Operators with a projection inside -> the position of h, which the weight follows."""


def flops(nodes: Iterable[fx.Node]) -> int:
    """FLOPs of the matrix products, convolutions and fused attentions among the nodes; the rest counts as none."""
    return sum(_node_flops(node) for node in nodes)


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else tuple(value[0].shape)


def _node_flops(node: fx.Node) -> int:
    name = op_name(node)
    name = name if name.startswith("wafer.") else name.removeprefix("aten.").split(".")[0]
    sources = node.all_input_nodes
    if name in ("mm", "bmm"):
        return 2 * math.prod(_shape(sources[0])) * _shape(sources[-1])[-1] if len(sources) > 1 else 0
    if name in ("addmm", "baddbmm"):
        left, right = node.args[1], node.args[2]
        assert isinstance(left, fx.Node)
        assert isinstance(right, fx.Node)
        return 2 * math.prod(_shape(left)) * _shape(right)[-1]
    if name == "convolution":
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        out = _shape(node)
        return 2 * math.prod(out) * math.prod(_shape(weight)[1:])
    if name == "convolution_backward":
        weight = node.args[2]
        gradient = node.args[0]
        assert isinstance(weight, fx.Node)
        assert isinstance(gradient, fx.Node)
        return 4 * math.prod(_shape(gradient)) * math.prod(_shape(weight)[1:])
    if name in _LOSSES:
        h, weight = node.args[_LOSSES[name] : _LOSSES[name] + 2]
        assert isinstance(h, fx.Node)
        assert isinstance(weight, fx.Node)
        return (6 if name.endswith("backward") else 2) * math.prod(_shape(h)) * _shape(weight)[0]
    if name.startswith("_scaled_dot_product"):
        queries, keys = (_shape(source) for source in sources[:2])
        if name.endswith("backward"):
            queries, keys = _shape(sources[1]), _shape(sources[2])
            return 10 * math.prod(queries) * keys[-2]
        return 4 * math.prod(queries) * keys[-2]
    return 0
