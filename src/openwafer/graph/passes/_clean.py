"""Make a traced graph plain: no writes in place, no aliases for their own sake, seeded randomness, no repeats."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.func import functionalize
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx

from openwafer.base import CaptureError
from openwafer.graph.ir import is_view, op_name

aten = torch.ops.aten

MAX_CONSTANT = 4096
"""Elements that a tensor constant in the graph may have; larger ones belong into buffers."""


class WaferOp:
    """A node target that is data: an operator of ours, executed by the roles under its name."""

    def __init__(self, name: str, *, literal: int | None = None, own_layer: bool = False) -> None:
        """literal: position of an int that differs between layers alike; it becomes an input of their common body.
        own_layer: each use is a layer of its own."""
        self.literal = literal
        self.own_layer = own_layer
        self.__name__ = name
        self.__module__ = "wafer"
        self.__qualname__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{self.__name__} runs in a role, not in the graph")


SEEDED = WaferOp("wafer.seeded", literal=2)
"""seeded(op, rng, salt, *args): a random ATen operator that draws from the key (rng, salt)."""

CONSTANT = WaferOp("wafer.constant")
"""constant(values, shape, dtype): a small tensor written into the graph."""


PACKED = WaferOp("wafer.packed")
"""packed(text, shape, dtype): a larger tensor written into the graph, its bytes compressed."""

ROUND = WaferOp("wafer.round")
"""round(values, exponent bits, mantissa bits): float32 values rounded to those of a narrower format."""


def literal_of(node: fx.Node) -> int | None:
    """The position of the int among a node's arguments that its body takes as an input, if it has one."""
    return node.target.literal if isinstance(node.target, WaferOp) else None


def clean(
    traced: fx.GraphModule, inputs: list[torch.Tensor], mode: FakeTensorMode, weights: set[int], rng: int
) -> fx.GraphModule:
    """Run the passes in their order; the result has the same inputs, outputs and numbers.

    weights, rng: positions among `inputs` of the trainable weights and of the random key.
    """
    # 1. functionalise, so that a node's value never changes after it is made
    _declare_writes(traced.graph)
    _rewrite_fresh_writes(traced.graph)
    if any(_mutates(node) for node in traced.graph.nodes):
        with mode, fx_traceback.preserve_node_meta():
            traced = make_fx(functionalize(fx.Interpreter(traced).run), tracing_mode="real")(*inputs)
    graph = traced.graph
    _drop_write_backs(graph)
    # 2. one name per value
    _drop_aliases(graph)
    _write_out_constants(traced)
    graph.eliminate_dead_code()
    # 3. randomness from keys: recomputation replays it, resuming repeats it
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    _seed(graph, placeholders[rng])
    # 4. masks and positions that every layer makes again
    _share_repeats(graph, {node for position, node in enumerate(placeholders) if position not in weights})
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return traced


def _rewrite_fresh_writes(graph: fx.Graph) -> None:
    """`op_(x)` becomes `op(x)` where x was just made and nothing views it: what norms and dropout do.

    This spares most models the second trace that functionalisation in general needs.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _mutates(node):
            continue
        written = node.args[0]
        functional = _functional(node.target)
        if functional is None or not isinstance(written, fx.Node):
            continue
        if written.op != "call_function" or op_name(written) == "getitem" or is_view(written):
            continue
        if any(is_view(user) and order[user] < order[node] for user in written.users):
            continue
        if node.meta["val"].dtype != written.meta["val"].dtype:
            continue
        node.target = functional
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)


def _functional(target: Any) -> Any:
    """The operator that returns what `target` writes into its first argument, if the two differ in nothing else."""
    if target is aten.bernoulli_.float:
        return aten.bernoulli.p
    name = target._schema.name.split("::")[1]
    arguments = [argument for argument in target._schema.arguments]
    if not name.endswith("_") or sum(bool(a.alias_info and a.alias_info.is_write) for a in arguments) != 1:
        return None
    found = getattr(getattr(aten, name[:-1], None), target._overloadname, None)
    if found is None or [a.name for a in found._schema.arguments] != [a.name for a in arguments]:
        return None
    return found


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _declare_writes(graph: fx.Graph) -> None:
    """Batch normalisation writes its running statistics, but the schema of the operator that eager PyTorch calls does not
    say so. The operator of the same kernel whose schema does takes its place."""
    for node in graph.nodes:
        if node.target is aten.native_batch_norm.default:
            running_mean, training = node.args[3], node.args[5]
            if training and running_mean is not None:
                node.target = aten._native_batch_norm_legit.default


def _drop_write_backs(graph: fx.Graph) -> None:
    """Functionalisation ends with copies into changed inputs; our outputs already name the new values."""
    for node in list(graph.nodes):
        if node.target is aten.copy_.default and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)


def _drop_aliases(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.target in (
            aten.detach.default,
            aten.alias.default,
            aten.lift_fresh.default,
            aten.lift_fresh_copy.default,
        ):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _write_out_constants(traced: fx.GraphModule) -> None:
    graph = traced.graph
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(traced, str(node.target))
        if value.numel() > MAX_CONSTANT:
            raise CaptureError(
                f"the step uses a tensor of shape {tuple(value.shape)} that is no parameter, buffer or input; "
                "register it with register_buffer so that MemoryX can hold it"
            )
        with unset_fake_temporarily():
            values = value.detach().reshape(-1).tolist()
        with graph.inserting_before(node):
            made = graph.call_function(CONSTANT, (values, list(value.shape), value.dtype))
        made.meta = dict(node.meta)
        made.meta.setdefault("val", value)
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _seed(graph: fx.Graph, rng: fx.Node) -> None:
    salt = 0
    for node in list(graph.nodes):
        target = node.target
        if (
            not isinstance(target, torch._ops.OpOverload)
            or torch.Tag.nondeterministic_seeded not in target.tags
        ):
            continue
        if _attention_without_dropout(node):
            continue
        with graph.inserting_before(node):
            seeded = graph.call_function(SEEDED, (str(target), rng, salt, *node.args), dict(node.kwargs))
        seeded.meta = dict(node.meta)
        node.replace_all_uses_with(seeded)
        graph.erase_node(node)
        salt += 1


def _attention_without_dropout(node: fx.Node) -> bool:
    """Fused attention is tagged random although it draws nothing when its dropout is 0."""
    schema = node.target._schema  # type: ignore[union-attr]
    names = [argument.name for argument in schema.arguments]
    if "dropout_p" not in names:
        return False
    position = names.index("dropout_p")
    value = node.args[position] if position < len(node.args) else node.kwargs.get("dropout_p", 0.0)
    return isinstance(value, (int, float)) and value == 0.0


def _share_repeats(graph: fx.Graph, fixed: set[fx.Node]) -> None:
    """Common subexpressions among nodes that depend on `fixed` placeholders only; the first one serves all."""
    seen: dict[tuple[str, str, str], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is SEEDED:
            continue
        if not all(source in fixed for source in node.all_input_nodes):
            continue
        key = (str(node.target), repr(node.args), repr(sorted(node.kwargs.items())))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node
            fixed.add(node)
