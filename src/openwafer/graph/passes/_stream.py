"""Weights that systems use in a narrower dtype only are streamed in it: half the bytes, and one cast per step."""

from __future__ import annotations

from torch import fx

from openwafer.graph.ir import StepGraph, op_name
from openwafer.graph.passes._layers import ancestors


def narrow_streams(step: StepGraph) -> None:
    """Replace `cast(weight)` by a placeholder of the cast's type where systems read the weight in no other way.

    Afterwards `step.streamed[name]` is what systems read; `step.weights[name]` stays the stored weight, which the
    update reads. Numbers do not change: MemoryX casts as the graph did.
    """
    system = ancestors([*step.reported, *step.gradients.values()])
    for name, node in step.weights.items():
        users = [user for user in node.users if user in system]
        if not users or any(op_name(user) != "aten._to_copy.default" for user in users):
            continue
        if any(
            set(user.kwargs) - {"dtype"} or user.kwargs.get("dtype") != users[0].kwargs.get("dtype")
            for user in users
        ):
            continue
        with step.graph.inserting_after(node):
            streamed = step.graph.placeholder(f"streamed_{node.name}")
        streamed.meta["val"] = users[0].meta["val"]
        streamed.meta["name"] = name
        for user in users:
            user.replace_all_uses_with(streamed)
            step.graph.erase_node(user)
        step.streamed[name] = streamed


def gradient_source(node: fx.Node) -> fx.Node:
    """The value to send as a gradient: before its cast to float32, which MemoryX's float32 sum does anyway."""
    if op_name(node) == "aten._to_copy.default" and set(node.kwargs) == {"dtype"}:
        source = node.all_input_nodes[0]
        if source.op == "call_function" and str(node.kwargs["dtype"]) == "torch.float32":
            return source
    return node
