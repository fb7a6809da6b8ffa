"""What the frame of a recursive function holds: where each thing lies that is needed again behind a call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import operands, result_of, result_type, successors

Call = tuple[int, int]
"""Block and instruction of a call."""


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """Byte offsets in one function's frame; at 0 stands the number of the call that the frame belongs to."""

    locals: dict[str, int]
    """Locals that have an address, and those that some call needs again."""
    needed: dict[Call, tuple[str, ...]]
    """The register locals that are read behind a call before they are set."""
    temporaries: dict[Call, dict[int, tuple[int, ir.Type]]]
    """Those used behind a call. Calls use the same bytes for theirs."""
    bytes: int
    """A multiple of every alignment in the frames of the cycle."""


def lay_out_frames(
    cycle: Collection[ir.Function], functions: Mapping[str, ir.Function]
) -> dict[str, FrameLayout]:
    """The frames of functions that call each other, by their names."""
    align = max([2, *(local.align for one in cycle for local in one.locals.values() if local.bytes)])
    names = {one.name for one in cycle}
    return {one.name: _lay_out(one, names, functions, align) for one in cycle}


def _lay_out(
    function: ir.Function, cycle: set[str], functions: Mapping[str, ir.Function], align: int
) -> FrameLayout:
    needed: dict[Call, tuple[str, ...]] = {}
    kept: dict[Call, list[tuple[int, ir.Type]]] = {}
    alive = _alive_behind(function)
    for number, block in enumerate(function.blocks):
        for place, one in enumerate(block.instructions):
            if isinstance(one, ir.Invoke) and one.function in cycle:
                live = _alive_before(alive[number], block.instructions[place + 1 :])
                needed[number, place] = tuple(name for name in function.locals if name in live)
                kept[number, place] = _used_behind(function, functions, block, place)
    places: dict[str, int] = {}
    at = 2
    for name, local in function.locals.items():
        if local.bytes:
            at = -(-at // local.align) * local.align
            places[name], at = at, at + _even(local.bytes)
        elif any(name in one for one in needed.values()):
            places[name], at = at, at + _even(ir.BYTES[local.type])
    temporaries: dict[Call, dict[int, tuple[int, ir.Type]]] = {}
    end = at
    for call, found in kept.items():
        offset, temporaries[call] = at, {}
        for temporary, kind in found:
            temporaries[call][temporary] = (offset, kind)
            offset += _even(ir.BYTES[kind])
        end = max(end, offset)
    return FrameLayout(places, needed, temporaries, -(-end // align) * align)


def _even(size: int) -> int:
    return size + size % 2


def _alive_before(alive: set[str], code: list[ir.Instruction]) -> set[str]:
    """The register locals whose values `code` needs, if behind it `alive` are needed."""
    found = set(alive)
    for one in reversed(code):
        if isinstance(one, ir.Set):
            found.discard(one.local)
        elif isinstance(one, ir.Get):
            found.add(one.local)
    return found


def _alive_behind(function: ir.Function) -> list[set[str]]:
    """For each block the register locals that are read behind it before they are set."""
    behind: list[set[str]] = [set() for _ in function.blocks]
    changed = True
    while changed:
        changed = False
        before = [
            _alive_before(alive, block.instructions)
            for alive, block in zip(behind, function.blocks, strict=True)
        ]
        for number, block in enumerate(function.blocks):
            for target in successors(block.terminator):
                if not before[target] <= behind[number]:
                    behind[number] |= before[target]
                    changed = True
    return behind


def _used_behind(
    function: ir.Function, functions: Mapping[str, ir.Function], block: ir.Block, place: int
) -> list[tuple[int, ir.Type]]:
    """The temporaries from before an instruction that the rest of its block uses."""
    rest = (*block.instructions[place + 1 :], block.terminator)
    used = {one.number for node in rest for one in operands(node) if isinstance(one, ir.Temporary)}
    return [
        (number, result_type(one, function, functions))
        for one in block.instructions[:place]
        if (number := result_of(one)) is not None and number in used
    ]
