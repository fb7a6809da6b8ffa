"""What a block of code costs, as counts of cost classes; how many cycles a class takes is the fabric's timing table.

Values of 8 bits and bools count as 16. Reading and writing a register local is free, since the machine's instructions name
their registers; a constant that goes into one is a `move`. What DSD operations cost is the fabric's matter.
"""

from __future__ import annotations

from collections import Counter

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._bits import FLOATS, INTEGERS
from openwafer.csl.ir._machine import MACHINE
from openwafer.csl.ir._operands import goes_back

COST_CLASSES = (
    *(f"{kind}{bits}" for kind in ("add", "mul", "div", "logic", "shift") for bits in (16, 32, 64)),
    *("compare", "fadd16", "fadd32", "fmul16", "fmul32", "fdiv16", "fdiv32", "convert"),
    *(f"{kind}{bits}" for kind in ("load", "store") for bits in (16, 32, 64)),
    *(
        "move",
        "address",
        "branch",
        "branch_taken",
        "call",
        "return",
        "dsd_edit",
        "config",
        "tsc",
        "task",
        "random",
        "print",
    ),
)
"""Every class that a timing table must price."""

_INTEGER = {
    "add": "add", "sub": "add", "neg": "add", "mul": "mul", "div": "div", "rem": "div",
    "and": "logic", "or": "logic", "xor": "logic", "not": "logic", "shl": "shift", "shr": "shift",
}  # fmt: skip
_FLOAT = {"add": "fadd", "sub": "fadd", "neg": "fadd", "mul": "fmul", "div": "fdiv"}


def cost_class(instruction: ir.Instruction) -> str | None:
    """The class of an instruction, None for what costs nothing by itself; a Copy costs as `block_costs` says."""
    match instruction:
        case ir.Compute():
            table = _FLOAT if instruction.type in FLOATS else _INTEGER
            return table[instruction.operation] + _bits(instruction.type)
        case ir.Compare():
            return "compare"
        case ir.Convert():
            return _conversion(instruction)
        case ir.Set():
            return _constant_move(instruction.value)
        case ir.Element():
            return None if isinstance(instruction.index, ir.Number) else "address"
        case ir.Frame() | ir.Offset():
            return "address"
        case ir.Load():
            return _memory("load", instruction.type)
        case ir.Store():
            return _memory("store", instruction.type)
        case ir.Invoke():
            return "call"
        case ir.Machine():
            return MACHINE[instruction.name].cost
        case ir.EditDsd() | ir.LoadDsr():
            return "dsd_edit"
        case ir.MapRead() | ir.MapWrite():
            return "move"
        case _:
            return None


def block_costs(block: ir.Block, number: int) -> dict[str, int]:
    """How many operations of each class a block has; `number` is its place in the function.

    A Copy counts a load and a store for each 32 bits, an element of a size that is no power of two a multiplication. A
    terminator that can jump backwards counts `branch_taken`, one that chooses or jumps over a block `branch`.
    """
    counts: Counter[str] = Counter()
    for one in block.instructions:
        kind = cost_class(one)
        if kind is not None:
            counts[kind] += 1
        if isinstance(one, ir.Copy):
            counts.update({"load32": one.bytes // 4, "store32": one.bytes // 4})
            rest = (one.bytes % 4 + 1) // 2
            counts.update({"load16": rest, "store16": rest})
        if isinstance(one, ir.Element) and kind is not None and one.bytes & (one.bytes - 1):
            counts["mul16"] += 1
    end = block.terminator
    if goes_back(end, number):
        counts["branch_taken"] += 1
    elif isinstance(end, ir.Branch | ir.Choose) or (isinstance(end, ir.Jump) and end.block != number + 1):
        counts["branch"] += 1
    if isinstance(end, ir.Choose):
        counts["compare"] += len(end.cases)
    if isinstance(end, ir.Return):
        counts["return"] += 1
    return {kind: count for kind, count in sorted(counts.items()) if count}


def unit_costs(unit: ir.Unit) -> tuple[dict[str, int], ...]:
    """The costs of all blocks, numbered over all functions in their order."""
    return tuple(
        block_costs(block, number)
        for function in unit.functions.values()
        for number, block in enumerate(function.blocks)
    )


def _bits(kind: ir.Type) -> str:
    return str(max(16, 8 * ir.BYTES[kind]))


def _memory(what: str, kind: ir.Type) -> str:
    return "dsd_edit" if kind == "dsd" else what + _bits(kind)


def _constant_move(value: ir.Operand) -> str | None:
    if isinstance(value, ir.Descriptor) or (isinstance(value, ir.Constant) and value.type == "dsd"):
        return "dsd_edit"
    return None if isinstance(value, ir.Temporary) else "move"


def _conversion(instruction: ir.Convert) -> str | None:
    """Between integers only a wider target needs an instruction."""
    source, target = instruction.source, instruction.target
    if source == target:
        return None
    whole = INTEGERS | {"ptr", "bool"}
    if source in whole and target in whole:
        if target == "bool":
            return "compare"
        return "move" if ir.BYTES[target] > max(2, ir.BYTES[source]) else None
    return "convert"
