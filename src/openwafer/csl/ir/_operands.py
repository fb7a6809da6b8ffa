"""What an instruction uses and gives: one table that the verifier, both executions and sharing read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from operator import attrgetter
from typing import Any, get_args

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._machine import MACHINE

EDIT_TYPES: dict[str, ir.Type] = {
    "base": "ptr", "offset": "i16", "length": "u16", "stride": "i16", "color": "u16", "queue": "u16", "index": "u16",
}  # fmt: skip
"""The type of the value that an EditDsd puts into a field."""

_OPERAND_FIELDS: dict[type, tuple[str, ...]] = {
    ir.Compute: ("operands",),
    ir.Compare: ("left", "right"),
    ir.Convert: ("operand",),
    ir.Bitcast: ("operand",),
    ir.Set: ("value",),
    ir.Element: ("base", "index"),
    ir.Offset: ("base",),
    ir.Load: ("address",),
    ir.Store: ("address", "value"),
    ir.Copy: ("target", "source"),
    ir.Invoke: ("arguments",),
    ir.Machine: ("operands",),
    ir.EditDsd: ("descriptor", "value"),
    ir.Vector: ("operands",),
    ir.LoadDsr: ("descriptor",),
    ir.MapBegin: ("operands",),
    ir.MapWrite: ("value",),
    ir.Branch: ("condition",),
    ir.Choose: ("value",),
    ir.Return: ("value",),
}

_OPERANDS = (ir.Temporary, ir.Number, ir.Address, ir.Descriptor, ir.Constant)

Change = Callable[[ir.Operand], ir.Operand]


def map_operands(node: Any, change: Change) -> Any:
    """An instruction, terminator or vector operand with `change` done to each of its operands, in order."""
    names = ("value",) if isinstance(node, ir.VectorOperand) else _OPERAND_FIELDS.get(type(node), ())
    changed: dict[str, Any] = {}
    for name in names:
        old = getattr(node, name)
        new: Any
        if isinstance(old, tuple):
            new = tuple(
                [change(one) if isinstance(one, _OPERANDS) else map_operands(one, change) for one in old]
            )
        else:
            new = change(old) if isinstance(old, _OPERANDS) else old
        if new is not old and new != old:
            changed[name] = new
    return replace(node, **changed) if changed else node


def operands(node: Any) -> list[ir.Operand]:
    """The operands of an instruction or terminator, in order."""
    found: list[ir.Operand] = []
    for name in _OPERAND_FIELDS.get(type(node), ()):
        value = getattr(node, name)
        for one in value if isinstance(value, tuple) else (value,):
            operand = one.value if isinstance(one, ir.VectorOperand) else one
            if isinstance(operand, _OPERANDS):
                found.append(operand)
    return found


def other_fields(node: Any) -> Any:
    """All of an instruction or terminator that is not an operand; equal for nodes that differ in operands only."""
    rest = _REST[type(node)](node)
    if isinstance(node, ir.Vector | ir.MapBegin):  # operands say more than their values
        return rest, tuple(
            [(one.kind, one.type, one.value if one.kind == "dsr" else None) for one in node.operands]
        )
    return rest


def _rest(kind: type) -> Callable[[Any], Any]:
    names = [one.name for one in fields(kind) if one.name not in _OPERAND_FIELDS.get(kind, ())]
    return attrgetter(*names) if names else lambda node: ()


_REST = {kind: _rest(kind) for kind in (*get_args(ir.Instruction), *get_args(ir.Terminator))}


def result_of(instruction: ir.Instruction) -> int | None:
    """The number of the temporary that an instruction assigns."""
    return getattr(instruction, "result", None)


def result_type(
    instruction: ir.Instruction, function: ir.Function, functions: Mapping[str, ir.Function]
) -> ir.Type:
    """The type of what an instruction gives; void where it gives nothing."""
    match instruction:
        case ir.Compare() | ir.MapNext():
            return "bool"
        case ir.Convert() | ir.Bitcast():
            return instruction.target
        case ir.Get():
            return function.locals[instruction.local].type
        case ir.Frame() | ir.Element() | ir.Offset():
            return "ptr"
        case ir.Invoke():
            return functions[instruction.function].result
        case ir.Machine():
            return MACHINE[instruction.name].result
        case ir.EditDsd():
            return "dsd"
        case ir.Compute() | ir.Load() | ir.MapRead():
            return instruction.type
        case _:
            return "void"


def used_types(
    node: ir.Instruction | ir.Terminator, function: ir.Function, functions: Mapping[str, ir.Function]
) -> list[ir.Type]:
    """The types that the operands of `operands(node)` must have, in the same order."""
    match node:
        case ir.Compute():
            return [node.type] * len(node.operands)
        case ir.Compare():
            return [node.type, node.type]
        case ir.Convert() | ir.Bitcast():
            return [node.source]
        case ir.Set():
            return [function.locals[node.local].type]
        case ir.Element():
            return ["ptr", node.index_type]
        case ir.Offset() | ir.Load():
            return ["ptr"]
        case ir.Store():
            return ["ptr", node.type]
        case ir.Copy():
            return ["ptr", "ptr"]
        case ir.Invoke():
            callee = functions[node.function]
            return [callee.locals[name].type for name in callee.parameters]
        case ir.Machine():
            return list(MACHINE[node.name].parameters)
        case ir.EditDsd():
            return ["dsd", EDIT_TYPES[node.field]]
        case ir.Vector() | ir.MapBegin():
            return [_vector_type(one) for one in node.operands if one.kind != "dsr"]
        case ir.LoadDsr():
            return ["dsd"]
        case ir.MapWrite() | ir.Choose():
            return [node.type]
        case ir.Branch():
            return ["bool"]
        case ir.Return():
            return [] if node.value is None else [function.result]
        case _:
            return []


def _vector_type(operand: ir.VectorOperand) -> ir.Type:
    return "dsd" if operand.kind == "dsd" else "ptr" if operand.kind == "pointer" else operand.type


def successors(terminator: ir.Terminator | None) -> tuple[int, ...]:
    """The blocks that may follow."""
    match terminator:
        case ir.Jump():
            return (terminator.block,)
        case ir.Branch():
            return (terminator.then, terminator.otherwise)
        case ir.Choose():
            return (*(block for _, block in terminator.cases), terminator.otherwise)
        case _:
            return ()


def goes_back(terminator: ir.Terminator | None, block: int) -> bool:
    """Whether an edge from `block` leads to itself or a block before it."""
    return any(target <= block for target in successors(terminator))


def instructions(function: ir.Function) -> Iterator[ir.Instruction]:
    """All instructions of a function, in order."""
    for block in function.blocks:
        yield from block.instructions


def callees(function: ir.Function) -> list[str]:
    """The functions that `function` calls, each once, in order."""
    return list(dict.fromkeys(one.function for one in instructions(function) if isinstance(one, ir.Invoke)))


def waiting(functions: Mapping[str, ir.Function]) -> frozenset[str]:
    """The functions that can wait: those with a vector operation, a DSR load or a map, and all that call one."""
    own = (ir.Vector, ir.LoadDsr, ir.MapBegin, ir.MapNext)
    found = {name for name, one in functions.items() if any(isinstance(i, own) for i in instructions(one))}
    calls = {name: callees(one) for name, one in functions.items()}
    while more := {name for name in functions if name not in found and not found.isdisjoint(calls[name])}:
        found |= more
    return frozenset(found)


def entries(unit: ir.Unit) -> tuple[str, ...]:
    """The functions that the machine or the host starts, each once: those of tasks, then exported ones."""
    bound = [task.function for task in unit.tasks] + [one.function for one in unit.exports]
    return tuple(dict.fromkeys(name for name in bound if name is not None))


@cache
def argument_words(kind: ir.Type) -> int:
    """How many 32-bit words of `PeView.arguments` a parameter of an entry takes."""
    return (ir.BYTES[kind] + 3) // 4
