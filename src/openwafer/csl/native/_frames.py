"""Where a function that can wait keeps what it needs when it goes on: its resume point, its locals, some temporaries.

A frame is: the resume point (u32, 0 as the function starts), at 8 the result for the caller, then locals and those
temporaries that are used behind a place where the function can wait. A callee's frame follows its caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openwafer.csl.ir import (
    BYTES,
    Function,
    Instruction,
    Invoke,
    LoadDsr,
    MapBegin,
    MapNext,
    Temporary,
    Vector,
    callees,
    operands,
    result_of,
    result_type,
)

RESULT = 8
"""Where a callee leaves its result."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One function's frame: byte offsets of locals, and of temporaries by block and number."""

    locals: dict[str, int]
    temporaries: dict[tuple[int, int], int]
    bytes: int


def can_wait(instruction: Instruction, waiting: frozenset[str]) -> bool:
    """Whether the main thread may have to leave the function here."""
    if isinstance(instruction, Invoke):
        return instruction.function in waiting
    return isinstance(instruction, Vector | LoadDsr | MapBegin | MapNext)


def lay_out(function: Function, functions: Mapping[str, Function], waiting: frozenset[str]) -> Layout:
    """The frame of a function that can wait."""
    at = RESULT + (BYTES[function.result] if function.result != "void" else 0)
    places: dict[str, int] = {}
    for name, local in function.locals.items():
        if not local.bytes:
            at = -(-at // 8) * 8
            places[name] = at
            at += BYTES[local.type]
    temporaries: dict[tuple[int, int], int] = {}
    for number, temporary, size in _kept(function, functions, waiting):
        at = -(-at // 8) * 8
        temporaries[number, temporary] = at
        at += size
    return Layout(places, temporaries, -(-at // 16) * 16)


def frame_bytes(functions: Mapping[str, Function], layouts: Mapping[str, Layout]) -> int:
    """What the deepest chain of calls that can wait needs; `functions` call each other without recursion."""
    depth: dict[str, int] = {}

    def deepest(name: str) -> int:
        if name not in layouts:
            return 0
        if name not in depth:
            below = max((deepest(one) for one in callees(functions[name])), default=0)
            depth[name] = layouts[name].bytes + below
        return depth[name]

    return max((deepest(name) for name in layouts), default=0)


def _kept(
    function: Function, functions: Mapping[str, Function], waiting: frozenset[str]
) -> list[tuple[int, int, int]]:
    """(block, temporary, bytes) of those that a waiting place separates from a use; a map's byte is always one."""
    kept: dict[tuple[int, int], int] = {}
    for number, block in enumerate(function.blocks):
        before: dict[int, int] = {}  # temporary -> its bytes, if a waiting place may have come since
        fresh: dict[int, int] = {}
        for node in (*block.instructions, block.terminator):
            for operand in operands(node):
                if isinstance(operand, Temporary) and operand.number in before:
                    kept[number, operand.number] = before[operand.number]
            if node is None or not hasattr(node, "location") or not isinstance(node, Instruction):
                continue
            if can_wait(node, waiting):
                before |= fresh
                fresh = {}
            result = result_of(node)
            if result is not None:
                fresh[result] = BYTES[result_type(node, function, functions)]
            if isinstance(node, MapNext):
                kept[number, node.result] = 1
    return [(number, temporary, size) for (number, temporary), size in kept.items()]
