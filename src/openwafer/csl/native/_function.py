"""One function of PE-IR as one function of LLVM.

A function that cannot wait is plain: register locals are allocas, which LLVM turns into registers. One that can wait takes
its frame as the second argument and returns a Status; where an operation answers WAITING it stores the number of the place
and returns, and the switch at its beginning leads back behind that place.
"""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.csl import ir
from openwafer.csl.native import _frames as frames
from openwafer.csl.native._types import LLVM, function_name, local_name
from openwafer.csl.native._writer import Writer


def signature(function: ir.Function, waits: bool) -> tuple[str, str]:
    """LLVM's result type, and the parameter list of a definition."""
    parameters = [f"{LLVM[function.locals[name].type]} %p{i}" for i, name in enumerate(function.parameters)]
    if waits:
        return "i32", ", ".join(["ptr noalias %view", "ptr noalias %frame", *parameters])
    return LLVM[function.result], ", ".join(["ptr noalias %view", *parameters])


class FunctionEmitter:
    """Emits one function; `first_block` is the number of its first block among those of the unit."""

    def __init__(
        self,
        function: ir.Function,
        functions: Mapping[str, ir.Function],
        waiting: frozenset[str],
        layout: frames.Layout | None,
        first_block: int,
        constants: dict[str, str],
    ) -> None:
        self.function = function
        self.layout = layout
        self.writer = Writer(function, functions, waiting, layout, constants)
        self.first_block = first_block

    def text(self) -> str:
        """The definition."""
        writer = self.writer
        for number, block in enumerate(self.function.blocks):
            writer.begin_block(number)
            writer.line(f"call void @enter(ptr %view, i64 {self.first_block + number})")
            for instruction in block.instructions:
                writer.instruction(instruction)
            assert block.terminator is not None
            writer.terminator(block.terminator, number)
        result, parameters = signature(self.function, self.layout is not None)
        head = f"define internal {result} {function_name(self.function.name)}({parameters}) #0 {{"
        return "\n".join([head, *self._entry(), *writer.lines, "}"])

    def _entry(self) -> list[str]:
        """Allocas, then parameters into their locals, then the first block or the place where it waited."""
        function, lines = self.function, ["entry:"]
        lines += self.writer.allocas
        for name, local in function.locals.items():
            if local.bytes:
                continue
            place = local_name(name)
            if self.layout is None:
                lines.append(f"  {place} = alloca {LLVM[local.type]}, align 8")
            else:
                lines.append(
                    f"  {place} = getelementptr inbounds i8, ptr %frame, i64 {self.layout.locals[name]}"
                )
        if self.layout is not None:
            resumed = " ".join(
                f"i32 {number}, label %r{number}" for number in range(1, self.writer.places + 1)
            )
            lines += [
                "  %state = load i32, ptr %frame",
                f"  switch i32 %state, label %begin [{resumed}]",
                "begin:",
            ]
        parameters = {name: f"%p{i}" for i, name in enumerate(function.parameters)}
        for name, local in function.locals.items():
            if not local.bytes:
                value = parameters.get(name, "zeroinitializer")
                lines.append(f"  store {LLVM[local.type]} {value}, ptr {local_name(name)}")
        lines.append("  br label %b0")
        return lines
