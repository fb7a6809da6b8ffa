"""Queues for fabric DSDs of the WSE-2 that name none.

"Data Structure Descriptors" asks for a queue only where an operation is asynchronous, so programs of many colors leave it
out elsewhere. How the vendor's compiler chooses is not published. Here every such color gets a queue that the program does
not name, asynchronous operations first, since the queue is also their microthread. Once none is left, synchronous
operations share what the machine gives them: a buffer per color to receive, one for all colors to send.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import map_operands
from openwafer.csl.ir._records import FIELD
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._limits import LIMITS
from openwafer.csl.sema.builtins._reserved import imports_memcpy

if TYPE_CHECKING:
    from openwafer.csl.sema._engine import Engine

NO_QUEUE = 0xFF
_QUEUES = {"fabin": "input_queue", "fabout": "output_queue"}
_Kind = Literal["fabin", "fabout"]


def note_queue(call: Call, index: int, value: Value, asynchronous: bool) -> None:
    """Remembers that an operation uses a fabric DSD without a queue; on the WSE-3 that is an error."""
    if value.type not in (t.FABIN_DSD, t.FABOUT_DSD) or not value.known or value.data.queue != NO_QUEUE:
        return
    name = _QUEUES[value.data.kind]
    if call.architecture == "wse3":
        call.error(
            call.span_of(index),
            f"an operation of the WSE-3 needs a queue, this {value.type} has none",
            hint=f"add .{name} = @get_{name}(n) to its @get_dsd, and give the queue its color with @initialize_queue",
        )
    noted = (
        call.engine.resources.asynchronous_colors if asynchronous else call.engine.resources.waiting_colors
    )
    noted.setdefault((value.data.kind, value.data.color), call.span_of(index))


def assign_queues(engine: Engine) -> None:
    """Gives the noted DSDs their queues, from the last free one on; records an error where microthreads run out."""
    if engine.options.architecture == "wse3":
        return
    resources, unit = engine.resources, engine.unit
    variables = _variables(unit)
    free: dict[_Kind, list[int]] = {"fabin": _free(engine, "fabin"), "fabout": _free(engine, "fabout")}
    chosen: dict[tuple[_Kind, int], int] = {}
    for kind, color in dict.fromkeys(
        (*resources.asynchronous_colors, *resources.waiting_colors, *variables.values())
    ):
        if free[kind]:
            chosen[kind, color] = free[kind].pop()
        elif (kind, color) in resources.asynchronous_colors:
            _none_left(engine, kind, resources.asynchronous_colors[kind, color])

    if not chosen:
        return

    def queued(operand: ir.Operand) -> ir.Operand:
        if not isinstance(operand, ir.Descriptor) or operand.queue != NO_QUEUE:
            return operand
        if operand.kind != "fabin" and operand.kind != "fabout":
            return operand
        queue = chosen.get((operand.kind, operand.color))
        return operand if queue is None else replace(operand, queue=queue)

    for function in unit.functions.values():
        for block in function.blocks:
            block.instructions[:] = [map_operands(one, queued) for one in block.instructions]
    unit.preloads[:] = [map_operands(one, queued) for one in unit.preloads]
    for name, key in variables.items():
        if key in chosen:
            at, value = FIELD["queue"], unit.symbols[name].value
            unit.symbols[name] = replace(
                unit.symbols[name], value=value[:at] + bytes([chosen[key]]) + value[at + 1 :]
            )


def _variables(unit: ir.Unit) -> dict[str, tuple[_Kind, int]]:
    """Global variables that hold a fabric DSD without a queue, which running code may use in any way."""
    found: dict[str, tuple[_Kind, int]] = {}
    for symbol in unit.symbols.values():
        if symbol.type in ("fabin_dsd", "fabout_dsd") and symbol.value:
            kind: _Kind = "fabin" if symbol.type == "fabin_dsd" else "fabout"
            color, queue = symbol.value[FIELD["color"]], symbol.value[FIELD["queue"]]
            if queue == NO_QUEUE and color != NO_QUEUE:
                found[symbol.name] = (kind, color)
    return found


def _none_left(engine: Engine, kind: _Kind, span: Span) -> None:
    name = _QUEUES[kind]
    engine.report(
        span,
        f"no {name.replace('_', ' ')} is left for this {kind}_dsd, whose operation is asynchronous",
        hint=f"name one with .{name} that no other operation uses at the same time, or leave .async out",
    )


def _free(engine: Engine, kind: _Kind) -> list[int]:
    """Queues that no DSD and no @initialize_queue names."""
    limits, name = LIMITS[engine.options.architecture], _QUEUES[kind]
    taken = {number for (queue, number) in engine.resources.queues if queue == name}
    taken |= {number for (queue, number) in engine.resources.named_queues if queue == name}
    if imports_memcpy(engine):
        taken |= limits.memcpy_queues
    queues = limits.input_queues if kind == "fabin" else limits.output_queues
    return [number for number in queues if number not in taken]
