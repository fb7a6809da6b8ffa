"""Turn sets of nodes into bodies and calls: from the graph to the data that roles execute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from openwafer.artifact import Arg, Body, Call, Instr, Ref, Symbol, TensorType, print_body
from openwafer.graph.ir import is_view, op_name, tensor_type
from openwafer.graph.passes._clean import literal_of


class BodyTable:
    """Bodies by key; equal layers find theirs here again."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.bodies: dict[str, Body] = {}

    def add(self, body: Body) -> str:
        if body.key not in self.bodies:
            self.bodies[body.key] = body
            self.texts[body.key] = print_body(body)
        return body.key


def value_name(node: fx.Node) -> str:
    """The name that a value has everywhere: the user's for weights, state and inputs, the graph's for others."""
    name: str = node.meta.get("name", node.name)
    return name


def extract(
    table: BodyTable,
    nodes: Iterable[fx.Node],
    views: set[fx.Node],
    wanted: list[fx.Node],
    rename: dict[fx.Node, str] | None = None,
    outputs: list[str] | None = None,
) -> Call:
    """A call that computes `nodes` (in graph order) and returns `wanted`.

    rename: names of inputs that differ from the nodes' own; outputs: names of the results, if they differ.
    Views and casts of weights that the nodes read are made inside. Salts of random operators and first rows of shards
    become inputs of the call, so that layers that differ in nothing else share the body.
    """
    index: dict[fx.Node, int] = {}
    inputs: list[fx.Node | int] = []
    types: list[TensorType] = []
    ordered = _with_views(list(nodes), views)
    inside = set(ordered)
    for node in ordered:
        for source in node.all_input_nodes:
            if source not in inside and source not in index:
                index[source] = len(inputs)
                inputs.append(source)
                types.append(tensor_type(source.meta["val"]))
        literal = literal_of(node)
        if literal is not None:
            value = node.args[literal]
            assert isinstance(value, int)
            index[node] = -len(inputs) - 1  # where its literal will be
            inputs.append(value)
            types.append(TensorType("int64", ()))
    for node in wanted:
        if node not in inside and node not in index:
            index[node] = len(inputs)
            inputs.append(node)
            types.append(tensor_type(node.meta["val"]))
    instrs: list[Instr] = []
    for node in ordered:
        literal = literal_of(node)
        args: tuple[Any, ...] = node.args
        if literal is not None:
            args = (*args[:literal], _Literal(-index.pop(node) - 1), *args[literal + 1 :])
        instrs.append(
            Instr(
                op=op_name(node),
                args=tuple(_arg(value, index) for value in args),
                kwargs=tuple(
                    (key, _arg(value, index)) for key, value in node.kwargs.items() if _matters(key, value)
                ),
                types=_types(node),
                view_of=_view_of(node, index),
            )
        )
        index[node] = len(inputs) + len(instrs) - 1
    body = Body(tuple(types), tuple(instrs), tuple(index[node] for node in wanted))
    return Call(
        body=table.add(body),
        inputs=tuple(
            source if isinstance(source, int) else (rename or {}).get(source, value_name(source))
            for source in inputs
        ),
        outputs=tuple(outputs if outputs is not None else map(value_name, wanted)),
    )


class _Literal:
    def __init__(self, position: int) -> None:
        self.position = position


def _with_views(nodes: list[fx.Node], views: set[fx.Node]) -> list[fx.Node]:
    """The nodes with the weight views that they need in front of their first reader."""
    out: list[fx.Node] = []
    done: set[fx.Node] = set()

    def place(node: fx.Node) -> None:
        if node in done:
            return
        for source in node.all_input_nodes:
            if source in views:
                place(source)
        done.add(node)
        out.append(node)

    for node in nodes:
        place(node)
    return out


def _view_of(node: fx.Node, index: dict[fx.Node, int]) -> int | None:
    if op_name(node) == "getitem":
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return index[source] if is_view(source) else None
    return index[node.all_input_nodes[0]] if is_view(node) else None


def _types(node: fx.Node) -> tuple[TensorType, ...]:
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        return (tensor_type(value),)
    return tuple(
        tensor_type(item if isinstance(item, torch.Tensor) else torch.empty(())) for item in _flat(value)
    )


def _flat(value: Any) -> Iterable[Any]:
    for item in value:
        if isinstance(item, (tuple, list)):
            yield from _flat(item)
        else:
            yield item


def _matters(key: str, value: Any) -> bool:
    """Device, layout and pinning belong to the system that runs a body, not to the body."""
    return key not in ("device", "layout", "pin_memory")


def _arg(value: Any, index: dict[fx.Node, int]) -> Arg:
    if isinstance(value, _Literal):
        return Ref(value.position)
    if isinstance(value, fx.Node):
        return Ref(index[value])
    if isinstance(value, (list, tuple)):
        return tuple(_arg(item, index) for item in value)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return Symbol(str(value))
    if isinstance(value, torch.device):
        return Symbol("torch.device")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise AssertionError(f"no text form for {value!r} of type {type(value).__name__}")
