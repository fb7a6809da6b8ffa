"""Give every backward node the layer during whose backward it runs.

Backward visits layers from last to first. A node can run at stage l when what it reads exists: gradients made at
stages >= l, and the weights and kept values of layer l. So:

1. as early as the gradients allow, but not before the layer whose weights or values the node reads;
2. then later again, as long as that makes nothing larger cross between layers (a bias gradient, a view).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from openwafer.graph.ir import StepGraph, is_view, op_name, tensor_type
from openwafer.graph.passes._layers import ForwardLayers, ancestors, is_cheap, weights_of
from openwafer.graph.passes._stream import gradient_source

HOME = "home"
"""Key in a backward node's meta: the forward node in whose layer it runs, because it makes that layer's gradients."""


@dataclass(frozen=True)
class BackwardLayers:
    """The backward half, sorted; `stages[l]` runs during the backward of layer l, in graph order."""

    stages: list[list[fx.Node]]
    weight_views: set[fx.Node]
    contributions: list[list[tuple[fx.Node, str]]]
    """By layer: (value, weight name); the values add up to the weight's gradient, from last layer to first."""


def find_backward(step: StepGraph, forward: ForwardLayers) -> BackwardLayers:
    """Sort the nodes between the loss and the gradients into the stages of the backward pass."""
    known = set(forward.layer_of) | set(forward.constants) | forward.weight_views
    cuts = {name: gradient_source(node) for name, node in step.gradients.items()}
    wanted = ancestors(list(cuts.values()))
    streamed = {*step.read_weights.values(), *step.buffers.values()}
    nodes, views = [], set(forward.weight_views)
    for node in step.graph.nodes:
        if node not in wanted or node in known or node.op != "call_function":
            continue
        sources = node.all_input_nodes
        if len(sources) == 1 and (sources[0] in streamed or sources[0] in views) and is_cheap(node):
            views.add(node)
        else:
            nodes.append(node)
    home = _homes(step, forward)
    partial = _partial_sums(cuts, set(nodes))

    stage = _earliest(step, forward, nodes, views, home)
    roots = {
        value: max(
            (h for h in home.get(step.read_weights[name], ()) if h <= stage[value]), default=stage[value]
        )
        for name, values in partial.items()
        for value in values
        if value in stage
    }
    _sink(forward, nodes, stage, roots, views)

    count = len(forward.layers)
    stages: list[list[fx.Node]] = [[] for _ in range(count)]
    skipped = _inner_sums(cuts, partial)
    for node in nodes:
        if node not in skipped:
            stages[stage[node]].append(node)
    contributions: list[list[tuple[fx.Node, str]]] = [[] for _ in range(count)]
    for name, values in partial.items():
        homes = home.get(step.read_weights[name], set())
        for value in values:
            # A sum that the forward made goes when its layer comes round again; for the last layer that is at once.
            made = stage.get(
                value, forward.layer_of.get(value, count - 1) if name in step.sums else count - 1
            )
            contributions[max((layer for layer in homes if layer <= made), default=made)].append(
                (value, name)
            )
    _hold_back(step, home, views, stages, contributions)
    return BackwardLayers(stages, views, contributions)


def _hold_back(
    step: StepGraph,
    home: dict[fx.Node, set[int]],
    views: set[fx.Node],
    stages: list[list[fx.Node]],
    contributions: list[list[tuple[fx.Node, str]]],
) -> None:
    """Let the last layer whose backward reads a weight add to its gradient, if only zeros.

    A weight is updated as soon as its gradient is complete. Where no gradient flows to an early use of it (the weight
    was detached there), that would be before the use's own backward, which may need the weight as it was.
    """
    readers: dict[fx.Node, int] = {}
    for index in reversed(range(len(stages))):
        for node in stages[index]:
            readers.update(dict.fromkeys(weights_of(node, views), index))
        if stages[index] or contributions[index]:  # then the layer is loaded, with all that its forward reads
            readers.update({weight: index for weight, layers in home.items() if index in layers})
    first = {name: index for index in reversed(range(len(stages))) for _, name in contributions[index]}
    for name, made in first.items():
        reader = readers.get(step.read_weights[name], made)
        if reader < made:
            zeros = _zero_gradient(step, name)
            stages[reader].append(zeros)
            contributions[reader].append((zeros, name))


def _zero_gradient(step: StepGraph, name: str) -> fx.Node:
    """A node that makes zeros like a weight's gradient; one per weight, however often the step is cut."""
    placeholder = step.weights[name]
    if "zero_gradient" not in placeholder.meta:
        value = step.gradients[name].meta["val"]
        with step.graph.inserting_before(step.graph.output_node()):
            node = step.graph.call_function(
                torch.ops.aten.zeros.default, (list(value.shape),), {"dtype": value.dtype}
            )
        node.meta["val"] = value
        placeholder.meta["zero_gradient"] = node
    found: fx.Node = placeholder.meta["zero_gradient"]
    return found


def _homes(step: StepGraph, forward: ForwardLayers) -> dict[fx.Node, set[int]]:
    """For each weight and buffer the layers whose forward reads it."""
    home: dict[fx.Node, set[int]] = {}
    for node, layer in forward.layer_of.items():
        for weight in weights_of(node, forward.weight_views):
            home.setdefault(weight, set()).add(layer)
    return home


def _partial_sums(cuts: dict[str, fx.Node], nodes: set[fx.Node]) -> dict[str, list[fx.Node]]:
    """A tied weight's gradient is a sum over its uses: take the sum apart, so that each part leaves where it is made."""

    def parts(node: fx.Node) -> list[fx.Node]:
        if op_name(node) == "aten.add.Tensor" and node in nodes and not node.kwargs and len(node.users) == 1:
            left, right = node.args
            if isinstance(left, fx.Node) and isinstance(right, fx.Node) and {left, right} <= nodes:
                return [*parts(left), *parts(right)]
        return [node]

    out = {}
    for name, node in cuts.items():
        left_right = [a for a in node.args if isinstance(a, fx.Node)]
        tied = (
            op_name(node) == "aten.add.Tensor"
            and node in nodes
            and not node.kwargs
            and len(left_right) == 2
            and not any(user in nodes for user in node.users)  # else the sum itself is needed further down
        )
        if tied and all(a in nodes for a in left_right):
            out[name] = [part for a in left_right for part in parts(a)]
        else:
            out[name] = [node]
    return out


def _inner_sums(cuts: dict[str, fx.Node], partial: dict[str, list[fx.Node]]) -> set[fx.Node]:
    """The additions of the sums that were taken apart."""
    inner: set[fx.Node] = set()
    for name, values in partial.items():
        if len(values) > 1:
            stack = [cuts[name]]
            while stack:
                node = stack.pop()
                if node not in values:
                    inner.add(node)
                    stack.extend(node.all_input_nodes)
    return inner


def _earliest(
    step: StepGraph,
    forward: ForwardLayers,
    nodes: list[fx.Node],
    views: set[fx.Node],
    home: dict[fx.Node, set[int]],
) -> dict[fx.Node, int]:
    last_layer = len(forward.layers) - 1
    readers: dict[fx.Node, int] = {}
    for node, layer in forward.layer_of.items():
        for source in node.all_input_nodes:
            readers[source] = max(readers.get(source, -1), layer)
    parameters = set(step.read_weights.values())
    owner_layer: dict[fx.Node, int] = {}
    for node, layer in forward.layer_of.items():
        # A value that later layers read is kept whatever happens, and the last of them needs it first.
        owner_layer[node] = max(layer, readers.get(node, layer))
    depends_on_weights: set[fx.Node] = set()
    for node in step.graph.nodes:
        if node in forward.layer_of and any(
            s in parameters or s in views or s in depends_on_weights for s in node.all_input_nodes
        ):
            depends_on_weights.add(node)
    stage: dict[fx.Node, int] = {}
    for node in nodes:
        limit = last_layer
        for source in node.all_input_nodes:
            if source in stage:
                limit = min(limit, stage[source])
            elif source in forward.layer_of and source in depends_on_weights:
                limit = min(limit, owner_layer[source])
        for weight in weights_of(node, views):
            if weight in home:
                limit = min(limit, max(home[weight]))
        if HOME in node.meta:
            limit = min(limit, forward.layer_of[node.meta[HOME]])
        if op_name(node) == "getitem" and node.args[0] in stage:
            limit = stage[node.args[0]]  # type: ignore[index]
        stage[node] = limit
    return stage


def _sink(
    forward: ForwardLayers,
    nodes: list[fx.Node],
    stage: dict[fx.Node, int],
    roots: dict[fx.Node, int],
    views: set[fx.Node],
) -> None:
    """Move nodes to the stage of their last reader where that carries no more bytes between layers."""
    for node in reversed(nodes):
        if op_name(node) == "getitem" or HOME in node.meta or weights_of(node, views):
            continue  # stays with its tuple, with its weights
        parts = [user for user in node.users if op_name(user) == "getitem" and user in stage]
        readers = [user for part in parts for user in part.users] if parts else list(node.users)
        ends = [stage[user] for user in readers if user in stage]
        for value in parts or [node]:
            if value in roots:
                ends.append(min(roots[value], stage[node]))
        if not ends:
            continue
        target = max(ends)
        if target >= stage[node]:
            continue
        gain = sum(_bytes(value) for value in parts or [node] if not is_view(value))
        cost = 0
        for source in set(node.all_input_nodes):
            if source in stage:
                base = _base(source)
                lowest = min(
                    (stage[user] for user in _all_readers(base) if user in stage and user is not node),
                    default=stage[source],
                )
                cost += _bytes(base) if lowest > target else 0
            elif source in forward.layer_of:
                lowest = min(
                    (stage[user] for user in source.users if user in stage and user is not node),
                    default=len(forward.layers),
                )
                cost += _bytes(source) if lowest > target else 0
        if cost <= gain:
            stage[node] = target
            for part in parts:
                stage[part] = target


def _base(node: fx.Node) -> fx.Node:
    while is_view(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _all_readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read this value or a view of it."""
    out = []
    for user in node.users:
        if is_view(user):
            out.extend(_all_readers(user))
        out.append(user)
    return out


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return tensor_type(value).nbytes if value is not None and hasattr(value, "dtype") else 0
