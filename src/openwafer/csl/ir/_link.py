"""Addresses: every symbol in the order of its declaration, and behind them one stack for the locals that have an address.

Tasks run one at a time and no function calls itself any more (`_tail_calls.py`, `_recursion.py`), so the stack needs no
pointer: a function's locals lie behind those of the deepest chain of calls that leads to it, at addresses known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openwafer.base import CslError
from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import callees
from openwafer.machine import WSE2, WSE3

FIRST_ADDRESS: dict[str, int] = {"wse2": 1024, "wse3": 1024}
"""Where data begins, per architecture (assumed): below it the machine has its own tables, and a null pointer points there.
A multiple of 16, so that it moves no array to another bank."""


@dataclass(frozen=True, slots=True)
class Linked:
    """Where everything lies; byte addresses in the PE's memory."""

    addresses: dict[str, int]
    stack: dict[tuple[str, str], int]
    """(function, local): the address of a stack local."""
    stack_base: int
    end: int
    """The first byte behind the stack: what the program needs of the memory."""


def memory_bytes(architecture: str) -> int:
    """How much memory a PE has."""
    return int((WSE2 if architecture == "wse2" else WSE3).pe.sram_bytes)


def link(unit: ir.Unit) -> Linked:
    """Places the symbols and stack locals of a verified unit.

    Raises CslError if they need more memory than a PE has, naming the largest, or if a function calls itself.
    """
    addresses, at = {}, FIRST_ADDRESS[unit.architecture]
    for symbol in unit.symbols.values():
        at = _aligned(at, symbol.align)
        addresses[symbol.name] = at
        at += symbol.bytes
    stack_base = _aligned(at, 16)
    stack, end = _place_stack(unit, stack_base)
    end = _aligned(max(at, end), 4)
    available = memory_bytes(unit.architecture)
    if end > available:
        raise CslError(_too_large(unit, end, available, end - at if stack else 0))
    return Linked(addresses, stack, stack_base, end)


def call_order(
    functions: Mapping[str, ir.Function], locations: Sequence[tuple[str, int, int]] = ()
) -> list[str]:
    """The functions, each before those that it calls.

    Raises CslError if a function calls itself, with the chain of calls, at the place of the last of them.
    """
    order: list[str] = []
    done: set[str] = set()
    for root in functions:
        chain: list[str] = []
        todo = [(root, False)]
        while todo:
            name, leaving = todo.pop()
            if leaving:
                chain.pop()
                done.add(name)
                order.append(name)
            elif name in chain:
                cycle = " -> ".join([*chain[chain.index(name) :], name])
                where = _place_of_call(functions[chain[-1]], name, locations)
                raise CslError(
                    f"{where}function {name} calls itself ({cycle}), which loop_tail_calls and stack_calls should have changed"
                )
            elif name not in done:
                chain.append(name)
                todo.append((name, True))
                todo += [(one, False) for one in reversed(callees(functions[name]))]
    return order[::-1]


def _place_of_call(caller: ir.Function, name: str, locations: Sequence[tuple[str, int, int]]) -> str:
    for block in caller.blocks:
        for one in block.instructions:
            if isinstance(one, ir.Invoke) and one.function == name and 0 < one.location < len(locations):
                file, line, column = locations[one.location]
                return f"{file}:{line}:{column}: error: "
    return ""


def _place_stack(unit: ir.Unit, base: int) -> tuple[dict[tuple[str, str], int], int]:
    functions = unit.functions
    places: dict[tuple[str, str], int] = {}
    begin = dict.fromkeys(functions, base)
    end = 0
    for name in call_order(functions, unit.locations):
        at = begin[name]
        for local, kind in functions[name].locals.items():
            if kind.bytes:
                at = _aligned(at, kind.align)
                places[name, local] = at
                at += kind.bytes
                end = max(end, at)
        for callee in callees(functions[name]):
            begin[callee] = max(begin[callee], at)
    return places, end


def _aligned(at: int, align: int) -> int:
    align = max(2, align)
    return -(-at // align) * align


def _too_large(unit: ir.Unit, needed: int, available: int, stack: int) -> str:
    largest = sorted(unit.symbols.values(), key=lambda one: -one.bytes)[:4]
    parts = [f"{one.name} {one.bytes:,}" for one in largest] + ([f"the stack {stack:,}"] if stack else [])
    return (
        f"{unit.name} needs {needed:,} bytes, a PE has {available:,}; the largest are {', '.join(parts)} bytes; "
        "make arrays smaller, or share the work among more PEs"
    )
