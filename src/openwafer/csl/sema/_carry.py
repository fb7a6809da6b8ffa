"""Temporaries that are used beyond their block become locals, which is what PE-IR asks for."""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import map_operands, result_of, result_type


def carry(function: ir.Function, functions: Mapping[str, ir.Function]) -> None:
    """Sets such a temporary in a local where it is made, and reads it once in each block that uses it.

    The block that makes a value comes before every use of it: expressions are made before what they stand in.
    """
    made: dict[int, int] = {}
    for index, block in enumerate(function.blocks):
        for one in block.instructions:
            number = result_of(one)
            if number is not None:
                made[number] = index
    carried: dict[int, str] = {}
    following = max(made, default=-1) + 1
    for index, block in enumerate(function.blocks):
        here: dict[int, ir.Temporary] = {}
        changed: list[ir.Instruction] = []

        def use(operand: ir.Operand) -> ir.Operand:
            nonlocal following
            if not isinstance(operand, ir.Temporary) or made[operand.number] == index:  # noqa: B023
                return operand
            found = here.get(operand.number)  # noqa: B023
            if found is None:
                name = carried.setdefault(operand.number, f"carried..{operand.number}")
                found = here[operand.number] = ir.Temporary(following)  # noqa: B023
                following += 1
                changed.append(ir.Get(found.number, name))  # noqa: B023
            return found

        for one in block.instructions:
            moved = map_operands(one, use)
            changed.append(moved)
        block.terminator = map_operands(block.terminator, use)
        block.instructions = changed
    for number, name in carried.items():
        instructions = function.blocks[made[number]].instructions
        at = next(at for at, one in enumerate(instructions) if result_of(one) == number)
        maker = instructions[at]
        function.locals[name] = ir.Local(result_type(maker, function, functions))
        instructions.insert(at + 1, ir.Set(name, ir.Temporary(number), maker.location))
