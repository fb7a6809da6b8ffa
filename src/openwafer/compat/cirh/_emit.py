"""Emit ATen nodes. Each node is run once on meta tensors as it is made, so that its type is torch's own answer.

A value of CIRH is a node, or a Splat: one number for all entries, which consumers use without ever making the tensor.
"""

from __future__ import annotations

import base64
import math
import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from openwafer.compat.cirh._function import Type
from openwafer.graph.passes import CONSTANT, PACKED, ROUND, SEEDED, WaferOp

aten = torch.ops.aten

Number: TypeAlias = float | int | bool

SMALL_CONSTANT = 64
"""Elements up to which a constant is written out in the plan; larger ones are packed."""


@dataclass(frozen=True, slots=True)
class Splat:
    """A tensor filled with one value: a number, or a node of shape ()."""

    source: fx.Node | Number
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def number(self) -> Number | None:
        return None if isinstance(self.source, fx.Node) else self.source


Value: TypeAlias = fx.Node | Splat


class Emitter:
    """Makes nodes at the end of a graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.rng: fx.Node | None = None
        self.meta: dict[str, Any] = {}
        """Given to every node that is made: where it comes from."""
        self.shared: dict[tuple[Any, ...], fx.Node] = {}
        """Nodes that two operations need and only one shall make, by what they are made of."""
        self._scalars: dict[tuple[Number, torch.dtype], fx.Node] = {}
        self._salt = 0

    def placeholder(self, name: str, kind: Type, dtype: torch.dtype) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty(kind.shape, dtype=dtype, device="meta")
        return node

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that calls an ATen operator."""
        node = self.graph.call_function(target, args, kwargs)
        values = fx.node.map_arg(args, lambda n: n.meta["val"])
        named = fx.node.map_arg(kwargs, lambda n: n.meta["val"])
        if (
            any(argument.name == "device" for argument in target._schema.arguments)
            and not node.all_input_nodes
        ):
            named = {**named, "device": "meta"}
        value = target(*values, **named)
        node.meta = {**self.meta, "val": value}
        if not isinstance(value, Tensor):  # parts stand right after their whole: layers are cut between nodes
            for index, part in enumerate(value):
                if isinstance(part, Tensor):
                    self.item(node, index)
        return node

    def wafer(self, target: WaferOp, value: Tensor, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that calls an operator of ours, which makes something like `value`."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta = {**self.meta, "val": value}
        return node

    def item(self, node: fx.Node, index: int) -> fx.Node:
        """One result of a node that has several."""
        if (node, index) in self.shared:
            return self.shared[node, index]
        made = self.graph.call_function(operator.getitem, (node, index))
        made.meta = {**self.meta, "val": node.meta["val"][index]}
        self.shared[node, index] = made
        return made

    def scalar(self, number: Number, dtype: torch.dtype) -> fx.Node:
        """A tensor of shape () with this number; one node for all that ask for it."""
        if (number, dtype) not in self._scalars:
            value = torch.empty((), dtype=dtype, device="meta")
            self._scalars[number, dtype] = self.wafer(CONSTANT, value, [number], [], dtype)
        return self._scalars[number, dtype]

    def constant(self, values: Tensor) -> fx.Node:
        """A tensor that is written into the plan."""
        meta = torch.empty(values.shape, dtype=values.dtype, device="meta")
        if values.numel() <= SMALL_CONSTANT:
            return self.wafer(CONSTANT, meta, values.reshape(-1).tolist(), list(values.shape), values.dtype)
        return self.wafer(PACKED, meta, pack(values), list(values.shape), values.dtype)

    def seeded(self, target: Any, seed: int, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that draws numbers from the step's key and the seed that the program gives."""
        assert self.rng is not None
        shaped = fx.node.map_arg(args, lambda n: n.meta["val"])
        options = {key: value for key, value in kwargs.items()}
        if any(argument.name == "device" for argument in target._schema.arguments):
            options["device"] = "meta"
        if any(argument.name == "generator" for argument in target._schema.arguments):
            options["generator"] = None
        value = target(*shaped, **options)
        self._salt += 1
        salt = (seed & 0xFFFFFFFF) << 20 | self._salt
        return self.wafer(SEEDED, value, str(target), self.rng, salt, *args, **kwargs)

    def rounded(self, node: fx.Node, exponent: int, mantissa: int) -> fx.Node:
        """float32 values, rounded to a narrower format."""
        return self.wafer(ROUND, node.meta["val"], node, exponent, mantissa)

    def tensor(self, value: Value) -> fx.Node:
        """The value as a tensor of its whole shape; a Splat is spread."""
        if isinstance(value, fx.Node):
            return value
        source = value.source
        if isinstance(source, fx.Node):
            return self(aten.expand.default, source, list(value.shape)) if value.shape else source
        if not value.shape:
            return self.scalar(source, value.dtype)
        return self(aten.full.default, list(value.shape), source, dtype=value.dtype)

    def operand(self, value: Value, number: bool) -> Any:
        """The value as an operand that broadcasts: a tensor, a tensor of shape (), or (if `number`) a Python number."""
        if isinstance(value, fx.Node):
            return value
        if isinstance(value.source, fx.Node):
            return value.source
        return value.source if number else self.scalar(value.source, value.dtype)

    def pointwise(
        self, target: Callable[..., Any], values: list[Value], numbers: tuple[int, ...] = (), **kwargs: Any
    ) -> Value:
        """Apply an operator that treats entries alike. Splats stay Splats, and numbers are computed at once.

        numbers: positions where the operator takes a Python number for a tensor.
        """
        if all(isinstance(value, Splat) for value in values):
            splats = [value for value in values if isinstance(value, Splat)]
            shape = max((splat.shape for splat in splats), key=math.prod)
            if all(splat.number is not None for splat in splats):
                scalars = [torch.tensor(splat.number, dtype=splat.dtype) for splat in splats]
                found = target(*scalars, **kwargs)
                return Splat(found.item(), found.dtype, shape)
            node = self(target, *[self.operand(splat, False) for splat in splats], **kwargs)
            return Splat(node, node.meta["val"].dtype, shape)
        return self(target, *[self.operand(value, i in numbers) for i, value in enumerate(values)], **kwargs)


def pack(values: Tensor) -> str:
    """A tensor's bytes, compressed, as text that a plan can hold; the operator `wafer.packed` reads it."""
    data = values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return base64.b85encode(zlib.compress(data, 6)).decode()


def dtype_of(value: Value) -> torch.dtype:
    """The dtype of a value."""
    if isinstance(value, Splat):
        return value.dtype
    found: torch.dtype = value.meta["val"].dtype
    return found
