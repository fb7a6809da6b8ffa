"""Run one operation, or a few, as the cluster does: lowered, made into a body, its text read back, compiled, called."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from openwafer.artifact import parse_body
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import Kernels
from openwafer.compat.cirh import Function, Lowering, Type, parse
from openwafer.graph.passes import BodyTable
from openwafer.graph.passes._bodies import extract

ELEMENTS = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.bool: "i1",
}


def kind(value: Tensor | tuple[torch.dtype, tuple[int, ...]]) -> str:
    """The MLIR type of a tensor, or of (dtype, shape)."""
    dtype, shape = (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else value
    return "tensor<" + "".join(f"{size}x" for size in shape) + ELEMENTS[dtype] + ">"


def dense(values: list[int], element: str = "i64") -> str:
    """A constant of integers, as an attribute or an operand has it."""
    return f"dense<{list(values)}> : tensor<{len(values)}x{element}>"


def run(
    text: str,
    *inputs: Tensor,
    key: int = 5,
    half: str = "float16",
    change: Callable[[Function], Function] = lambda function: function,
) -> tuple[Tensor, ...]:
    """The results of a function for these arguments. change: a pass over the function."""
    function = change(parse(text))
    function.attributes["cs.fp16_type"] = half
    lowering = Lowering(function, None, 1)
    for position, argument in enumerate(function.arguments):
        lowering.argument(argument.value, f"in{position}")
    rng = lowering.emit.placeholder("rng", Type("i64", ()), torch.int64)
    lowering.emit.rng = rng
    lowering.run()
    ends = [lowering.tensor(result.value) for result in function.results]
    lowering.graph.output(tuple(ends))
    lowering.graph.eliminate_dead_code()
    table = BodyTable()
    nodes = [node for node in lowering.graph.nodes if node.op == "call_function"]
    call = extract(table, nodes, set(), ends)
    body = parse_body(table.texts[call.body])
    values: Mapping[str, Tensor | int] = {
        **{f"in{position}": value for position, value in enumerate(inputs)},
        "rng": key,
    }
    given = [name if isinstance(name, int) else values[name] for name in call.inputs]
    return compile_body(body, Kernels(torch.device("cpu")))(given)


def run_op(
    name: str,
    inputs: list[Tensor],
    results: list[tuple[torch.dtype, tuple[int, ...]]],
    attributes: str = "",
    constants: list[str] | None = None,
    half: str = "float16",
) -> tuple[Tensor, ...]:
    """One operation in the generic form. constants: dense attributes that become further operands."""
    arguments = [f"%a{i}: {kind(value)}" for i, value in enumerate(inputs)]
    lines, operands, kinds = [], [f"%a{i}" for i in range(len(inputs))], [kind(value) for value in inputs]
    for i, text in enumerate(constants or []):
        lines.append(f"%c{i} = cirh.Const {text}")
        operands.append(f"%c{i}")
        kinds.append(text.rpartition(" : ")[2])
    made = ", ".join(f"%r{i}" for i in range(len(results)))
    types = ", ".join(kind(value) for value in results)
    lines.append(
        f'{made} = "cirh.{name}"({", ".join(operands)}) {{{attributes}}} : ({", ".join(kinds)}) -> ({types})'
    )
    lines.append(f"return {made} : {types}")
    body = "\n  ".join(lines)
    return run(f"func @graph({', '.join(arguments)}) -> ({types}) {{\n  {body}\n}}", *inputs, half=half)
