"""Put together again what the client's compiler took apart, where ATen has one operator for it.

    softmax's gradient    y * (g - sum(g * y)), in float32 between casts: nine operations over all attention scores

The client's own CPU backend computes it with ATen's operator. That computes in float32 as well and rounds once.
"""

from __future__ import annotations

from dataclasses import replace

from openwafer.compat.cirh._dense import integers
from openwafer.compat.cirh._function import Dense, Function, Op

SOFTMAX_GRAD = "SoftmaxGrad"
"""Our own name: operands gradient and result of the softmax."""


def fuse(function: Function) -> Function:
    """The same function with whole operations for the patterns above."""
    look = _Look(function)
    fused: dict[int, Op] = {}
    dropped: set[int] = set()
    for op in function.ops:
        found = look.softmax_gradient(op) if op.name == "Mul" else None
        if found is not None:
            whole, inner = found
            fused[whole.results[0]] = whole
            dropped.update(inner)
    if not fused:
        return function
    return Function(
        text_name=function.text_name,
        name=function.name,
        attributes=function.attributes,
        arguments=function.arguments,
        results=function.results,
        ops=[fused.get(op.results[0], op) for op in function.ops if op.results[0] not in dropped],
        values=function.values,
        locations=function.locations,
    )


class _Look:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.made_by = {value: op for op in function.ops for value in op.results}
        self.users: dict[int, list[Op | None]] = {}
        for op in function.ops:
            for value in op.operands:
                self.users.setdefault(value, []).append(op)
        for result in function.results:
            self.users.setdefault(result.value, []).append(None)

    def is_made(self, value: int, *names: str) -> Op | None:
        """The operation that makes a value, if it is one of these."""
        op = self.made_by.get(value)
        return op if op is not None and op.name in names else None

    def softmax_gradient(self, op: Op) -> tuple[Op, list[int]] | None:
        """The whole operation for a product that ends the pattern, and the values inside that nothing else reads."""
        result, difference = op.operands
        sub = self.is_made(difference, "Sub")
        if sub is None:
            return None
        gradient, spread = sub.operands
        inner = [difference, spread]
        while (wide := self.is_made(inner[-1], "BroadcastInDim", "Reshape")) is not None:
            inner.append(wide.operands[0])
        total = self.is_made(inner[-1], "Reduce")
        product = self.is_made(total.operands[0], "Mul") if total is not None else None
        if total is None or product is None or sorted(product.operands) != sorted((gradient, result)):
            return None
        inner.append(product.results[0])
        narrow = self._narrowed(op, gradient, result)
        softmax = self.is_made(narrow[2] if narrow else result, "Softmax")
        rank = len(self.function.values[result].shape)
        dims, axis = total.attributes.get("dimensions"), softmax.attributes.get("axis") if softmax else None
        if (
            not isinstance(axis, int)
            or axis % rank != rank - 1
            or total.attributes.get("reduce_kind") != "ADD"
        ):
            return None
        if (
            not isinstance(dims, Dense)
            or integers(dims) != [rank - 1]
            or any(len(self.users[v]) != 1 for v in inner)
        ):
            # The product's operands are read twice, by it and by what comes after; all else only once.
            return None
        last, *operands = narrow or (op, gradient, result)
        if last is not op:
            inner.append(op.results[0])
        return replace(
            last, name=SOFTMAX_GRAD, operands=tuple(operands), attributes={"axis": rank - 1}
        ), inner

    def _narrowed(self, op: Op, gradient: int, result: int) -> tuple[Op, int, int] | None:
        """(last cast, gradient, result) if all is computed wide between casts from and to one narrow type."""
        wide = [self.is_made(value, "Cast") for value in (gradient, result)]
        users = self.users.get(op.results[0], [])
        last = users[0] if len(users) == 1 else None
        if wide[0] is None or wide[1] is None or last is None or last.name != "Cast":
            return None
        values = self.function.values
        kinds = {values[wide[0].operands[0]], values[wide[1].operands[0]], values[last.results[0]]}
        if len(kinds) != 1 or kinds.pop().element not in ("f16", "bf16"):
            return None
        return last, wide[0].operands[0], wide[1].operands[0]
