"""Functions that call each other as the last thing they do, such as the steps of an algorithm that start one another.

A PE's locals have fixed places, so a function cannot be entered twice. A call whose result is returned at once needs no
second place: it can be a jump. `loop_tail_calls` gives each function of such a cycle the code of all of them, with jumps in
place of the calls between them. Cycles with other calls stay; `_recursion.py` gives them a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import callees, entries, instructions, map_operands, result_of


def loop_tail_calls(unit: ir.Unit) -> ir.Unit:
    """The unit with jumps for the calls of its cycles, or the unit itself if it has no cycle that allows it."""
    calls = {name: callees(one) for name, one in unit.functions.items()}
    loops = [
        cycle for cycle in cycles(calls) if all(_only_tail_calls(unit.functions, one, cycle) for one in cycle)
    ]
    if not loops:
        return unit
    functions = dict(unit.functions)
    for cycle in loops:
        outside = {called for name, found in calls.items() if name not in cycle for called in found}
        starts = [name for name in cycle if name in outside or name in entries(unit)]
        for name in cycle:
            del functions[name]
        for name in starts:
            order = [name, *(one for one in cycle if one != name)]
            functions[name] = _merge([unit.functions[one] for one in order])
    return replace(unit, functions={name: functions[name] for name in unit.functions if name in functions})


def cycles(calls: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of functions that reach each other, in the order of the unit."""
    reached = {name: _reach(calls, name) for name in calls}
    found: list[list[str]] = []
    for name in calls:
        if name in reached[name] and not any(name in one for one in found):
            found.append([one for one in calls if one in reached[name] and name in reached[one]])
    return found


def _reach(calls: Mapping[str, Iterable[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = list(calls[start])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += calls[name]
    return found


def _only_tail_calls(functions: Mapping[str, ir.Function], name: str, cycle: list[str]) -> bool:
    """Whether every call from `name` into the cycle can be a jump.

    A pointer might lead to a local that the next round uses again, so pointers are passed only where no function of the
    cycle has a local with an address.
    """
    function = functions[name]
    addressed = any(local.bytes for one in cycle for local in functions[one].locals.values())
    for block in function.blocks:
        for at, one in enumerate(block.instructions):
            if not isinstance(one, ir.Invoke) or one.function not in cycle:
                continue
            callee = functions[one.function]
            if callee.result != function.result or at + 1 != len(block.instructions):
                return False
            if addressed and any(callee.locals[given].type == "ptr" for given in callee.parameters):
                return False
            if not _returns(function, block.terminator, one.result):
                return False
    return True


def _returns(function: ir.Function, terminator: ir.Terminator | None, result: int | None) -> bool:
    """Whether nothing but returning `result` is left to do."""
    seen: set[int] = set()
    while isinstance(terminator, ir.Jump) and terminator.block not in seen:
        seen.add(terminator.block)
        block = function.blocks[terminator.block]
        if block.instructions:
            return False
        terminator = block.terminator
    if not isinstance(terminator, ir.Return):
        return False
    return terminator.value is None or terminator.value == ir.Temporary(result if result is not None else -1)


def _merge(cycle: list[ir.Function]) -> ir.Function:
    """The first function, with the code of the others behind its own."""
    first: dict[str, int] = {}
    blocks = 0
    for one in cycle:
        first[one.name] = blocks
        blocks += len(one.blocks)
    known = {one.name: one for one in cycle}
    merged = ir.Function(cycle[0].name, (), cycle[0].result, {}, [], cycle[0].location)
    numbers = 0
    for place, one in enumerate(cycle):
        prefix = "" if place == 0 else f"{one.name}."
        for name, local in one.locals.items():
            merged.locals[prefix + name] = local
        for block in one.blocks:
            merged.blocks.append(_moved(block, first[one.name], numbers, prefix, known, first))
        numbers += 1 + max((result_of(found) or 0 for found in instructions(one)), default=0)
    merged.parameters = cycle[0].parameters
    return merged


def _moved(
    block: ir.Block,
    blocks: int,
    numbers: int,
    prefix: str,
    cycle: Mapping[str, ir.Function],
    first: Mapping[str, int],
) -> ir.Block:
    """A block with its temporaries, locals and successors renamed; a call within the cycle becomes a jump."""
    found = ir.Block()

    def renumbered(node: Any) -> Any:
        return map_operands(
            node,
            lambda one: replace(one, number=one.number + numbers) if isinstance(one, ir.Temporary) else one,
        )

    for one in block.instructions:
        moved = renumbered(one)
        if isinstance(moved, ir.Invoke) and moved.function in cycle:
            callee = cycle[moved.function]
            into = "" if first[callee.name] == 0 else f"{callee.name}."
            given = zip(callee.parameters, moved.arguments, strict=True)
            found.instructions += [ir.Set(into + name, value, moved.location) for name, value in given]
            found.terminator = ir.Jump(first[callee.name])
            return found
        if (result := result_of(moved)) is not None:
            moved = replace(moved, result=result + numbers)
        if isinstance(moved, ir.Get | ir.Set | ir.Frame):
            moved = replace(moved, local=prefix + moved.local)
        found.instructions.append(moved)
    end = renumbered(block.terminator)
    match end:
        case ir.Jump():
            end = ir.Jump(end.block + blocks)
        case ir.Branch():
            end = replace(end, then=end.then + blocks, otherwise=end.otherwise + blocks)
        case ir.Choose():
            cases = tuple((value, target + blocks) for value, target in end.cases)
            end = replace(end, cases=cases, otherwise=end.otherwise + blocks)
    found.terminator = end
    return found
