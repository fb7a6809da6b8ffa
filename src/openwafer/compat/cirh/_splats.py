"""Give every use of a filled tensor a tensor of its own.

The client writes a constant once, however often it is used: the zeros of a batch of 256 rows may also be those of a
vocabulary of 256 words. Which of its dims are the batch is then a question about the use, not about the constant.
"""

from __future__ import annotations

from dataclasses import replace

from openwafer.compat.cirh._dense import decode
from openwafer.compat.cirh._function import Dense, Function, Op, Result

_POINTWISE = {
    "Add", "Sub", "Mul", "Div", "Cast", "Compare", "Select", "Clamp", "Sqrt", "Rsqrt", "Exp", "Log", "And", "Or", "Not",
    "Reciprocal", "Abs", "Floor", "Ceil", "Pow",
}  # fmt: skip


def split_splats(function: Function) -> Function:
    """The same function; a tensor with dims that one number fills has one user at most."""
    filled: dict[int, Op] = {}
    for op in function.ops:
        if len(op.results) == 1 and _is_filled(function, op, filled):
            filled[op.results[0]] = op
    values = list(function.values)
    ops: list[Op] = []

    def copied(value: int) -> int:
        """A copy of a filled tensor for one use, made of copies; numbers without dims are shared."""
        op = filled.get(value)
        if op is None or not function.values[value].shape:
            return value
        made = len(values)
        values.append(function.values[value])
        operands = tuple(map(copied, op.operands))
        ops.append(replace(op, operands=operands, results=(made,)))
        return made

    for op in function.ops:
        if op.results[0] in filled and function.values[op.results[0]].shape:
            continue
        operands = tuple(map(copied, op.operands))
        ops.append(op if operands == op.operands else replace(op, operands=operands))
    results = [Result(copied(result.value), result.attributes) for result in function.results]
    return Function(
        text_name=function.text_name,
        name=function.name,
        attributes=function.attributes,
        arguments=function.arguments,
        results=results,
        ops=ops,
        values=values,
        locations=function.locations,
    )


def _is_filled(function: Function, op: Op, filled: dict[int, Op]) -> bool:
    if op.name == "Const":
        dense = op.attributes.get("value")
        return isinstance(dense, Dense) and decode(dense).ndim == 0
    if op.name == "BroadcastInDim":
        source = op.operands[0]
        return not function.values[source].shape or source in filled
    return (op.name in _POINTWISE or op.name == "Reshape") and all(value in filled for value in op.operands)
