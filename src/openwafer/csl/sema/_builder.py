"""The PE-IR of one function while it is being made."""

from __future__ import annotations

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import successors


class Builder:
    """Blocks, temporaries and locals of a function.

    Instructions go behind those of `block`; None means that control cannot get here, and what is emitted is dropped. A
    temporary may be used in later blocks: `carry` (see `_carry`) puts it into a local in the end.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks: list[ir.Block] = []
        self.locals: dict[str, ir.Local] = {}
        self.parameters: list[str] = []
        self.block: ir.Block | None = self.new_block()
        self._numbers = 0
        self._targets: dict[int, int] = {}
        self._seen: dict[str, int] = {}

    def new_block(self) -> ir.Block:
        """An empty block, behind the others."""
        block = ir.Block()
        self.blocks.append(block)
        return block

    def number(self) -> int:
        """The number of a new temporary."""
        self._numbers += 1
        return self._numbers - 1

    def emit(self, instruction: ir.Instruction) -> None:
        """Adds an instruction."""
        if self.block is not None:
            self.block.instructions.append(instruction)

    def end(self, terminator: ir.Terminator) -> None:
        """Ends the block; nothing follows it."""
        if self.block is not None:
            self.block.terminator = terminator
            self.block = None

    def index(self, block: ir.Block) -> int:
        """How terminators name a block."""
        found = self._targets.get(id(block))
        if found is None:
            self._targets = {id(one): index for index, one in enumerate(self.blocks)}
            found = self._targets[id(block)]
        return found

    def jump(self, block: ir.Block) -> None:
        """Ends the block with a jump."""
        self.end(ir.Jump(self.index(block)))

    def branch(self, condition: ir.Operand, then: ir.Block, otherwise: ir.Block) -> None:
        """Ends the block with a choice."""
        self.end(ir.Branch(condition, self.index(then), self.index(otherwise)))

    def local(self, name: str, type: ir.Type, *, bytes: int = 0, align: int = 2) -> str:
        """A new local, named like `name`; with `bytes` it has a place in the frame."""
        count = self._seen.get(name, 0)
        self._seen[name] = count + 1
        unique = name if not count else f"{name}.{count}"
        self.locals[unique] = ir.Local(type, bytes, align)
        return unique

    def forget(self, blocks: int, block: ir.Block, length: int, locals: dict[str, ir.Local]) -> None:
        """Takes everything back that was made since there were `blocks` blocks and `length` instructions in `block`."""
        for gone in self.blocks[blocks:]:
            self._targets.pop(id(gone), None)
        del self.blocks[blocks:]
        del block.instructions[length:]
        block.terminator = None
        self.block = block
        self.locals = locals

    def finish(self, result: ir.Type, location: int = 0) -> ir.Function:
        """The function, declared at `location`.

        Blocks that nothing leads to are gone; the last block ends with a return if it has no end.
        """
        self.end(ir.Return())
        for block in self.blocks:
            if block.terminator is None:
                block.terminator = ir.Halt("unreachable")
        blocks = _reachable(self.blocks)
        return ir.Function(self.name, tuple(self.parameters), result, self.locals, blocks, location)


def _reachable(blocks: list[ir.Block]) -> list[ir.Block]:
    """The blocks that the first one leads to, with new numbers; jumps over empty blocks are shortened."""

    def final(index: int) -> int:
        seen = set()
        while index not in seen and not blocks[index].instructions:
            seen.add(index)
            end = blocks[index].terminator
            if not isinstance(end, ir.Jump):
                break
            index = end.block
        return index

    def aim(end: ir.Terminator | None, where: dict[int, int] | None) -> ir.Terminator | None:
        def to(index: int) -> int:
            return final(index) if where is None else where[index]

        match end:
            case ir.Jump(block):
                return ir.Jump(to(block))
            case ir.Branch(condition, then, otherwise):
                return ir.Branch(condition, to(then), to(otherwise))
            case ir.Choose(type, value, cases, otherwise):
                return ir.Choose(
                    type, value, tuple((case, to(block)) for case, block in cases), to(otherwise)
                )
        return end

    for block in blocks:
        block.terminator = aim(block.terminator, None)
    pending, reached = [0], {0}
    while pending:
        for index in successors(blocks[pending.pop()].terminator):
            if index not in reached:
                reached.add(index)
                pending.append(index)
    order = sorted(reached)
    where = {old: new for new, old in enumerate(order)}
    kept = [blocks[index] for index in order]
    for block in kept:
        block.terminator = aim(block.terminator, where)
    return kept
