"""Recursion on a stack in the PE's memory.

A PE's locals have fixed places, so a function cannot be entered twice. `stack_calls` makes one function of each cycle of
calls that `loop_tail_calls` left. A call within the cycle becomes: store into the caller's frame what is needed again, set
the parameters, jump. A return reads from its frame which call it belongs to, and jumps behind that. What comes out is plain
code, so both executions agree bit for bit, and a call costs what its loads and stores cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from openwafer.base import CslError
from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import callees, entries, map_operands, result_of
from openwafer.csl.ir._recursion_frames import FrameLayout, lay_out_frames
from openwafer.csl.ir._tail_calls import cycles

STACK_BYTES = 4096
"""Of one stack: the usual allowance for a PE's stack (assumed; the SDK's linker has its own). A multiple of 16."""
_FRAME, _SITE = "frame$", "site$"


def stack_calls(unit: ir.Unit) -> ir.Unit:
    """The unit with stacks for its recursive functions, or the unit itself if it has none.

    Cycles of calls that do not lead to each other share a stack. A frame that does not fit is Trap.STACK at the place of
    the call as the program runs. Raises CslError if not even one fits.
    """
    calls = {name: callees(one) for name, one in unit.functions.items()}
    found = cycles(calls)
    if not found:
        return unit
    functions, symbols, strings = dict(unit.functions), dict(unit.symbols), list(unit.strings)
    for cycle in found:
        stack = f"stack${_cycles_below(cycle, found, calls)}"
        symbols[stack] = ir.Variable(stack, STACK_BYTES, 16, f"[{STACK_BYTES // 2}]u16")
        outside = {called for name, one in calls.items() if name not in cycle for called in one}
        for name in cycle:
            del functions[name]
        for name in cycle:
            if name in outside or name in entries(unit):
                order = [unit.functions[name], *(unit.functions[one] for one in cycle if one != name)]
                functions[name] = _Merge(order, unit.functions, stack, strings).function()
    kept = {name: functions[name] for name in unit.functions if name in functions}
    return replace(unit, functions=kept, symbols=symbols, strings=strings)


def _cycles_below(cycle: list[str], found: list[list[str]], calls: Mapping[str, list[str]]) -> int:
    """How many cycles may be open, one below the other, while a function of this one runs."""
    reached: set[str] = set()
    todo = [called for name in cycle for called in calls[name] if called not in cycle]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += calls[name]
    return max(
        (1 + _cycles_below(one, found, calls) for one in found if not reached.isdisjoint(one)), default=0
    )


class _Merge:
    """Makes one function out of those of a cycle. The first is what the outside calls; block 0 begins the stack."""

    def __init__(
        self, cycle: list[ir.Function], functions: Mapping[str, ir.Function], stack: str, strings: list[str]
    ) -> None:
        self._cycle = {one.name: one for one in cycle}
        self._frames = lay_out_frames(cycle, functions)
        self._stack, self._strings = stack, strings
        first = cycle[0]
        self._prefix = {one.name: "" if one is first else f"{one.name}." for one in cycle}
        self._merged = ir.Function(first.name, first.parameters, first.result, {}, [])
        self._numbers = 0
        self._block = self._new_block()
        self._enter = {name: self._new_block() for name in self._cycle}
        self._leave = {name: self._new_block() for name in self._cycle}
        self._body: dict[str, list[int]] = {}
        self._sites: dict[str, list[tuple[int, int]]] = {name: [] for name in self._cycle}
        """By function: number and continuation of each call of it."""

    def function(self) -> ir.Function:
        """The merged function.

        Raises CslError if a frame is larger than the stack.
        """
        for name, one in self._cycle.items():
            if self._frames[name].bytes > STACK_BYTES:
                raise CslError(
                    f"recursive function {name} needs a frame of {self._frames[name].bytes:,} bytes, the stack has "
                    f"{STACK_BYTES:,}; make its local arrays global"
                )
            for local, kind in one.locals.items():
                if not kind.bytes:
                    self._merged.locals[self._prefix[name] + local] = kind
        for name, one in self._cycle.items():
            if one.result != "void":
                self._merged.locals[_result(name)] = ir.Local(one.result)
            self._body[name] = [self._new_block() for _ in one.blocks]
        self._merged.locals |= {_FRAME: ir.Local("ptr"), _SITE: ir.Local("u16")}
        self._emit(ir.Set(_FRAME, ir.Address(self._stack, 0)))
        self._emit(ir.Set(_SITE, ir.Number("u16", 0)))
        self._end(ir.Jump(self._enter[self._merged.name]))
        for name in self._cycle:
            self._write_enter(name)
            for number in range(len(self._body[name])):
                self._write_block(name, number)
        for name in self._cycle:
            self._write_leave(name)
        return self._merged

    # --- writing ----------------------------------------------------------------------------------------------

    def _new_block(self) -> int:
        self._merged.blocks.append(ir.Block())
        return len(self._merged.blocks) - 1

    def _emit(self, one: ir.Instruction) -> None:
        self._merged.blocks[self._block].instructions.append(one)

    def _end(self, terminator: ir.Terminator) -> None:
        self._merged.blocks[self._block].terminator = terminator

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _get(self, local: str) -> ir.Temporary:
        number = self._number()
        self._emit(ir.Get(number, local))
        return ir.Temporary(number)

    def _offset(self, base: ir.Operand, bytes: int, location: int = 0) -> ir.Temporary:
        number = self._number()
        self._emit(ir.Offset(number, base, bytes, location))
        return ir.Temporary(number)

    def _load(self, kind: ir.Type, frame: ir.Operand, offset: int) -> ir.Temporary:
        address, number = self._offset(frame, offset), self._number()
        self._emit(ir.Load(number, kind, address, known=True))
        return ir.Temporary(number)

    def _save(self, kind: ir.Type, frame: ir.Operand, offset: int, value: ir.Operand) -> None:
        self._emit(ir.Store(kind, self._offset(frame, offset), value, known=True))

    # --- parts of a function ----------------------------------------------------------------------------------

    def _write_enter(self, name: str) -> None:
        """The new frame gets the number of its call."""
        self._block = self._enter[name]
        self._emit(ir.Store("u16", self._get(_FRAME), self._get(_SITE), known=True))
        self._end(ir.Jump(self._body[name][0]))

    def _write_leave(self, name: str) -> None:
        self._block = self._leave[name]
        number = self._number()
        self._emit(ir.Load(number, "u16", self._get(_FRAME), known=True))
        cases = list(self._sites[name])
        if name == self._merged.name:
            cases.append((0, self._new_block()))
        (_, last), others = cases[-1], tuple(cases[:-1])
        self._end(ir.Choose("u16", ir.Temporary(number), others, last) if others else ir.Jump(last))
        if name == self._merged.name:
            self._block = last
            self._end(ir.Return(None if self._merged.result == "void" else self._get(_result(name))))

    def _write_block(self, name: str, number: int) -> None:
        """One block, in pieces: each call within the cycle ends one."""
        self._block = self._body[name][number]
        block, prefix = self._cycle[name].blocks[number], self._prefix[name]
        renamed: dict[int, ir.Temporary] = {}

        def moved(node: Any) -> Any:
            return map_operands(
                node, lambda one: renamed[one.number] if isinstance(one, ir.Temporary) else one
            )

        for place, one in enumerate(block.instructions):
            if isinstance(one, ir.Invoke) and one.function in self._cycle:
                self._call(name, (number, place), moved(one), renamed)
                continue
            if isinstance(one, ir.Frame):
                offset = self._frames[name].locals[one.local]
                renamed[one.result] = self._offset(self._get(_FRAME), offset, one.location)
                continue
            one = moved(one)
            if isinstance(one, ir.Get | ir.Set):
                one = replace(one, local=prefix + one.local)
            if (result := result_of(one)) is not None:
                renamed[result] = ir.Temporary(self._number())
                one = replace(one, result=renamed[result].number)
            self._emit(one)
        self._end(self._terminator(name, moved(block.terminator)))

    def _terminator(self, name: str, end: ir.Terminator) -> ir.Terminator:
        body = self._body[name]
        match end:
            case ir.Jump():
                return ir.Jump(body[end.block])
            case ir.Branch():
                return replace(end, then=body[end.then], otherwise=body[end.otherwise])
            case ir.Choose():
                cases = tuple((value, body[target]) for value, target in end.cases)
                return replace(end, cases=cases, otherwise=body[end.otherwise])
            case ir.Return():
                if end.value is not None:
                    self._emit(ir.Set(_result(name), end.value))
                return ir.Jump(self._leave[name])
            case ir.Halt():
                return end

    def _call(
        self, name: str, call: tuple[int, int], one: ir.Invoke, renamed: dict[int, ir.Temporary]
    ) -> None:
        """A call within the cycle, and the beginning of the block behind it."""
        own, callee = self._frames[name], self._cycle[one.function]
        frame = self._get(_FRAME)
        for local in own.needed[call]:
            place = self._prefix[name] + local
            self._save(self._merged.locals[place].type, frame, own.locals[local], self._get(place))
        for temporary, (offset, kind) in own.temporaries[call].items():
            self._save(kind, frame, offset, renamed[temporary])
        for parameter, value in zip(callee.parameters, one.arguments, strict=True):
            self._emit(ir.Set(self._prefix[callee.name] + parameter, value, one.location))
        site = 1 + sum(map(len, self._sites.values()))
        self._open_frame(own, callee, site, frame, one.location)
        self._sites[callee.name].append((site, self._block))
        frame = self._offset(self._get(_FRAME), -own.bytes)
        self._emit(ir.Set(_FRAME, frame))
        for local in own.needed[call]:
            place = self._prefix[name] + local
            self._emit(ir.Set(place, self._load(self._merged.locals[place].type, frame, own.locals[local])))
        for temporary, (offset, kind) in own.temporaries[call].items():
            renamed[temporary] = self._load(kind, frame, offset)
        if one.result is not None:
            renamed[one.result] = self._get(_result(callee.name))

    def _open_frame(
        self, own: FrameLayout, callee: ir.Function, site: int, frame: ir.Operand, location: int
    ) -> None:
        """Goes to the callee if its frame fits behind the caller's; what is written next stands behind the call."""
        size = self._frames[callee.name].bytes
        following = self._offset(frame, own.bytes, location)
        self._emit(ir.Set(_FRAME, following))
        self._emit(ir.Set(_SITE, ir.Number("u16", site)))
        fits = self._number()
        last = ir.Address(self._stack, STACK_BYTES - size)
        self._emit(ir.Compare(fits, "le", "ptr", following, last, location))
        full = self._new_block()
        self._end(ir.Branch(ir.Temporary(fits), self._enter[callee.name], full))
        self._block = full
        if callee.name not in self._strings:
            self._strings.append(callee.name)
        second = self._strings.index(callee.name) << 32 | STACK_BYTES
        self._end(ir.Halt("stack", location, (size, second)))
        self._block = self._new_block()


def _result(name: str) -> str:
    return f"result${name}"
