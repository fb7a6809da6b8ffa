"""Operations that draw numbers. They draw from the step's key and the program's seed, so that a step can be repeated."""

from __future__ import annotations

import torch

from openwafer.compat.cirh._batch import Axis, result
from openwafer.compat.cirh._emit import Splat, Value
from openwafer.compat.cirh._rules import Use, alike, rule, unrelated

aten = torch.ops.aten


@rule("RandomUniform", axes=unrelated)
def _uniform(use: Use) -> Value:
    """Operands: lowest, highest (not reached), shape."""
    low, high = (value.number if isinstance(value, Splat) else None for value in use.values[:2])
    if low is None or high is None:
        raise use.refuse("its bounds must be constants")
    seed = use.integer("global_seed", 0)
    if not use.dtype().is_floating_point:
        return use.emit.seeded(
            aten.randint.low_generator, seed, int(low), int(high), use.shape(), dtype=use.dtype()
        )
    node = use.emit.seeded(aten.rand.generator, seed, use.shape(), dtype=use.dtype())
    if high != 1 or low != 0:
        node = use.emit(aten.add.Tensor, use.emit(aten.mul.Tensor, node, high - low), low)
    return node


@rule("RandomNormal", axes=alike)
def _normal(use: Use) -> Value:
    """Operands: mean, standard deviation."""
    node = use.emit.seeded(aten.randn.generator, use.integer("seed", 0), use.shape(), dtype=use.dtype())
    scaled = use.emit(aten.mul.Tensor, node, use.emit.operand(use.values[1], True))
    return use.emit(aten.add.Tensor, scaled, use.emit.operand(use.values[0], True))


@rule(
    "RandomMultinomial",
    axes=lambda look: [(Axis.EACH, [(0, dim), (result(), dim)]) for dim in range(len(look.ins[0].shape) - 1)],
    exact=True,
)
def _multinomial(use: Use) -> Value:
    """Draws classes with the probabilities of each row."""
    node = use.emit.seeded(
        aten.multinomial.default,
        use.integer("seed", 0),
        use.tensor(0),
        use.integer("num_samples"),
        use.flag("replacement"),
    )
    return node if use.dtype() is torch.int64 else use.emit(aten._to_copy.default, node, dtype=use.dtype())
