"""Compile a body to one Python function: a call per instruction, each value dropped after its last use."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch

from openwafer.artifact import Arg, Body, Ref, Symbol
from openwafer.cluster._kernels import FUSED, Kernels, symbol

Compiled = Callable[[list[Any]], tuple[torch.Tensor, ...]]
"""Takes a list of inputs, which it empties, so that they can die inside."""


def compile_body(body: Body, kernels: Kernels, kept: Collection[int] = ()) -> Compiled:
    """The function of a body. Equal numbers to running its operators one by one, in order.

    kept: inputs that the caller still reads afterwards, so that nothing may be written over them.
    """
    names: dict[str, Any] = {}
    count = len(body.inputs)
    lines = ["def run(args):"]
    if count:
        lines.append("    " + ", ".join(f"v{i}" for i in range(count)) + ", = args")
    lines.append("    args.clear()")
    dying: dict[int, list[int]] = {}
    for index, position in body.last_use.items():
        dying.setdefault(position, []).append(index)
    if -1 in dying:
        lines.append("    " + " = ".join(f"v{i}" for i in dying[-1]) + " = None")
    for position, instr in enumerate(body.instrs):
        target = f"v{count + position}"
        if instr.op == "getitem":
            source, item = instr.args
            assert isinstance(source, Ref)
            lines.append(f"    {target} = v{source.index}[{item}]")
        else:
            in_place = instr.op in FUSED and _arguments_die(body, position, kept)
            call, extra = kernels.find(body, position, in_place)
            names[f"op{position}"] = call
            parts = [_argument(arg, names) for arg in instr.args]
            # An argument may be named like a keyword of Python (`from`), so names are passed as text.
            parts += [f"**{{{key!r}: {_argument(value, names)}}}" for key, value in instr.kwargs]
            parts += [f"{key}={_argument_name(value, names)}" for key, value in extra.items()]
            lines.append(f"    {target} = op{position}({', '.join(parts)})")
        if position in dying:
            lines.append("    " + " = ".join(f"v{i}" for i in dying[position]) + " = None")
    lines.append("    return (" + "".join(f"v{i}, " for i in body.outputs) + ")")
    exec(compile("\n".join(lines), f"<body {body.key}>", "exec"), names)
    function: Compiled = names["run"]
    return function


def _arguments_die(body: Body, position: int, kept: Collection[int]) -> bool:
    """Whether nothing reads the weights and moments of a fused optimizer after it."""
    lists = (body.instrs[position].args[index] for index in (0, 2, 3, 4))
    for entry in lists:
        for value in entry if isinstance(entry, tuple) else ():
            if not isinstance(value, Ref):
                continue
            if value.index in kept or body.last_use.get(value.index, len(body.instrs)) > position:
                return False
    return True


def _argument(value: Arg, names: dict[str, Any]) -> str:
    if isinstance(value, Ref):
        return f"v{value.index}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_argument(item, names) for item in value) + "]"
    if isinstance(value, Symbol):
        return _argument_name(symbol(value), names)
    if isinstance(value, float):
        return (
            f"float({str(value)!r})"
            if value != value or value in (float("inf"), float("-inf"))
            else repr(value)
        )
    return repr(value)


def _argument_name(value: Any, names: dict[str, Any]) -> str:
    for key, known in names.items():
        if known is value:
            return key
    key = f"k{len(names)}"
    names[key] = value
    return key
