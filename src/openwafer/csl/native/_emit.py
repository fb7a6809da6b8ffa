"""A unit as an LLVM module: its functions, and one `ow_entry_<n>` for each function that the machine or the host starts."""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.csl import ir
from openwafer.csl.native import _frames as frames
from openwafer.csl.native._function import FunctionEmitter
from openwafer.csl.native._helpers import declarations, helpers
from openwafer.csl.native._types import LLVM, function_name


@dataclass(frozen=True, slots=True)
class Native:
    """Native code of a unit, before LLVM has seen it."""

    llvm: str
    """An LLVM module in assembly; it needs the functions of the PE ABI and nothing else."""
    frame_bytes: int
    """The frame that the deepest chain of calls that can wait needs."""


def emit(unit: ir.Unit) -> Native:
    """The native code of a unit that `resolve` or `share` has freed of symbols.

    Blocks count over all functions in the unit's order, as `unit_costs` counts them.
    """
    waiting = ir.waiting(unit.functions)
    layouts = {
        name: frames.lay_out(unit.functions[name], unit.functions, waiting) for name in sorted(waiting)
    }
    constants: dict[str, str] = {}
    bodies, block = [], 0
    for name, function in unit.functions.items():
        bodies.append(
            FunctionEmitter(function, unit.functions, waiting, layouts.get(name), block, constants).text()
        )
        block += len(function.blocks)
    bodies += [_entry(unit, number, name, name in waiting) for number, name in enumerate(ir.entries(unit))]
    data = [f"{name} = private unnamed_addr constant {value}, align 8" for value, name in constants.items()]
    attributes = (
        'attributes #0 = { nounwind "no-builtins" }'  # loops must not become calls of memset and its kin
    )
    parts = ["\n".join(data), *bodies, helpers(), declarations(), attributes, "!0 = !{}", ""]
    return Native("\n\n".join(parts), frames.frame_bytes(unit.functions, layouts))


def _entry(unit: ir.Unit, number: int, name: str, waits: bool) -> str:
    """Takes the arguments out of the PeView and calls the function."""
    function = unit.functions[name]
    lines, arguments, at = [], ["ptr %view"], ir.VIEW["arguments"]
    if waits:
        arguments.append("ptr %frame")
    for i, parameter in enumerate(function.parameters):
        kind = function.locals[parameter].type
        lines.append(f"  %at{i} = getelementptr inbounds i8, ptr %view, i64 {at}")
        if kind == "bool":
            lines.append(f"  %byte{i} = load i8, ptr %at{i}\n  %a{i} = icmp ne i8 %byte{i}, 0")
        else:
            lines.append(f"  %a{i} = load {LLVM[kind]}, ptr %at{i}, align 4")
        arguments.append(f"{LLVM[kind]} %a{i}")
        at += 4 * ir.argument_words(kind)
    result = "i32" if waits else LLVM[function.result]
    call = f"call {result} {function_name(name)}({', '.join(arguments)})"
    lines += [f"  %status = {call}", "  ret i32 %status"] if waits else ["  " + call, "  ret i32 0"]
    head = f"define i32 @ow_entry_{number}(ptr noalias %view, ptr noalias %frame) #0 {{"
    return "\n".join([head, *lines, "}"])
