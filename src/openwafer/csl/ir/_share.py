"""Code that many tiles share. Units of one shape differ only in literals, addresses and descriptors.

`resolve` frees a unit of symbols: what is left is code with numbers in it. `share` compares such code: where all units of a
shape agree a number stays, where they differ it becomes `const`, an entry of each program's own constants.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._bits import decode, encode
from openwafer.csl.ir._link import Linked
from openwafer.csl.ir._operands import Change, entries, map_operands, operands, other_fields
from openwafer.csl.ir._records import pack_descriptor, unpack_descriptor


@dataclass(frozen=True, slots=True)
class Group:
    """Units that share code."""

    unit: ir.Unit
    """The shared code: functions without symbols, and what starts them."""
    members: tuple[int, ...]
    """Places of the units in what `share` was given."""
    constants: tuple[tuple[int, ...], ...]
    """For each member the values of `const`, as 64 bits each."""


def resolve(unit: ir.Unit, linked: Linked) -> ir.Unit:
    """The code of a linked unit: addresses are numbers, its variables and strings are gone."""
    return _with_functions(unit, lambda function: _resolve_function(function, linked))


def share(units: Sequence[tuple[ir.Unit, Linked]]) -> list[Group]:
    """Groups of units that can share code, in the order of their first members.

    It costs about a microsecond for each instruction of each unit.
    """
    shapes: dict[Hashable, tuple[list[int], list[list[int]]]] = {}
    for place, (unit, linked) in enumerate(units):
        shape, words = _shape(unit, linked)
        members, found = shapes.setdefault(shape, ([], []))
        members.append(place)
        found.append(words)
    return [_group(units[members[0]], members, words) for members, words in shapes.values()]


def _shape(unit: ir.Unit, linked: Linked) -> tuple[Hashable, list[int]]:
    """What must be equal, and the numbers that need not be."""
    words: list[int] = []

    def taken(operand: ir.Operand) -> Hashable:
        """What must be equal of an operand: a temporary, or the type of what goes into the words."""
        match operand:
            case ir.Temporary():
                return operand.number
            case ir.Number():
                words.append(encode(operand.type, operand.value))
                return operand.type
            case ir.Address():
                words.append((linked.addresses[operand.symbol] + operand.offset) & 0xFFFF)
                return "ptr"
            case ir.Descriptor():
                words.extend(struct.unpack("<4Q", pack_descriptor(operand, linked.addresses)))
                return "dsd"
            case _:
                return operand

    def shaped(node: Any, function: ir.Function) -> Hashable:
        if isinstance(node, ir.Frame):
            words.append(linked.stack[function.name, node.local])
            return ir.Frame, node.result
        return type(node), other_fields(node), tuple([taken(one) for one in operands(node)])

    functions = tuple(
        (
            function.name,
            function.parameters,
            function.result,
            function.location,
            tuple(function.locals.items()),
            tuple(
                (
                    tuple([shaped(one, function) for one in block.instructions]),
                    shaped(block.terminator, function),
                )
                for block in function.blocks
            ),
        )
        for function in unit.functions.values()
    )
    return (unit.architecture, unit.half, functions, entries(unit), tuple(unit.locations)), words


def _group(first: tuple[ir.Unit, Linked], members: list[int], words: list[list[int]]) -> Group:
    columns = list(zip(*words, strict=True)) if len(words) > 1 else []
    differs = [any(word != column[0] for word in column) for column in columns]
    if not any(differs):
        return Group(resolve(*first), tuple(members), ((),) * len(members))
    slots: dict[tuple[tuple[int, ...], ...], int] = {}  # equal columns share a slot
    table: list[tuple[int, ...]] = []
    at = 0

    def put(operand: ir.Operand) -> ir.Operand:
        nonlocal at
        if not isinstance(operand, ir.Number | ir.Descriptor):
            return operand
        kind: ir.Type = operand.type if isinstance(operand, ir.Number) else "dsd"
        width = 4 if kind == "dsd" else 1
        own, at = tuple(columns[at : at + width]), at + width
        if not any(differs[at - width : at]):
            return operand
        if own not in slots:
            slots[own] = len(table)
            table.extend(own)
        return ir.Constant(kind, slots[own])

    code = _with_functions(resolve(*first), lambda function: _map_function(function, put))
    return Group(code, tuple(members), tuple(zip(*table, strict=True)))


def _resolve_function(function: ir.Function, linked: Linked) -> ir.Function:
    def number(operand: ir.Operand) -> ir.Operand:
        match operand:
            case ir.Address():
                return ir.Number("ptr", (linked.addresses[operand.symbol] + operand.offset) & 0xFFFF)
            case ir.Descriptor():
                return unpack_descriptor(pack_descriptor(operand, linked.addresses))
            case ir.Number():
                return ir.Number(operand.type, decode(operand.type, encode(operand.type, operand.value)))
            case _:
                return operand

    resolved = _map_function(function, number)
    for block in resolved.blocks:
        for place, one in enumerate(block.instructions):
            if isinstance(one, ir.Frame):
                address = ir.Number("ptr", linked.stack[function.name, one.local])
                block.instructions[place] = ir.Bitcast(one.result, "ptr", "ptr", address, one.location)
    return replace(resolved, locals={name: one for name, one in function.locals.items() if not one.bytes})


def _map_function(function: ir.Function, change: Change) -> ir.Function:
    blocks = [
        ir.Block(
            [map_operands(one, change) for one in block.instructions], map_operands(block.terminator, change)
        )
        for block in function.blocks
    ]
    return replace(function, blocks=blocks)


def _with_functions(unit: ir.Unit, change: Callable[[ir.Function], ir.Function]) -> ir.Unit:
    return ir.Unit(
        name=unit.name,
        architecture=unit.architecture,
        half=unit.half,
        functions={name: change(function) for name, function in unit.functions.items()},
        tasks=unit.tasks,
        exports=[
            ir.Exported(one.name, one.kind, function=one.function, parameters=one.parameters)
            for one in unit.exports
            if one.function is not None
        ],
        locations=unit.locations,
    )
