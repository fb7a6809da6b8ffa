"""The engine of layout blocks: it walks what is new in an iteration of a loop and repeats what it knows.

A layout says the same of hundreds of thousands of tiles, in courses that differ in few tests: is this the first column, is x
odd. So the variables of loops are `Traced` values, and an iteration is walked by the engine as ever, while what it asks of
them and what it says of tiles is recorded. Iterations that answer all questions alike do the same and are repeated from the
record, see `_tape`. All others are walked: those that do what is not recorded, print for example, or that change variables
other than integers and bools, and those that would make an error, so that the walk tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeAlias

from openwafer.csl._source import Span
from openwafer.csl.layout._observing import ObservingEngine
from openwafer.csl.layout._tape import SLOTS, Color, Done, Loop, Recording, Tile, commit, expression, replay
from openwafer.csl.layout._tile_call import PURE, TILES, TileCall
from openwafer.csl.layout._traced import Bound, Traced, bounds, now, plain
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call
from openwafer.csl.sema._calls import Signature
from openwafer.csl.sema._module import Global, ModuleInstance
from openwafer.csl.sema._scope import Breaking, Continuing, Returning, Target
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Cell, CellPlace, FunctionValue, Place, Value
from openwafer.csl.sema._walk import nodes
from openwafer.csl.syntax import ast

COURSES = 256
"""So many are recorded of a loop before it has to have repeated a quarter as many; else walking alone is faster."""

Iteration: TypeAlias = "Callable[[Value, Value], bool]"
"""Walks one iteration, of which the arguments are the number and how many were before; whether others follow."""


class TracingEngine(ObservingEngine):
    """An engine with the results, diagnostics and output of `Engine`. While `tracing`, it repeats iterations of loops."""

    tracing = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._top = 0
        """The next free one of the variables."""
        self._counts: dict[int, list[int]] = {}
        """By the id of a loop's node: iterations recorded, and repeated."""
        self._assigned: dict[int, dict[str, bool]] = {}

    # --- loops ---

    def _known_for(self, node: ast.For, place: Place, target: Target) -> Value:
        span = node.sequence.span
        cells = self._carried(node) if isinstance(place.type, t.Range) else None
        if cells is None:
            return super()._known_for(node, place, target)
        value = self.require_known(self.load(place, span), span, "the range of a loop at compile time")
        start, stop, step = (one.data for one in value.data)
        if step == 0:
            return super()._known_for(node, place, target)

        def once(number: Value, at: Value) -> bool:
            self._count(now(at), node.span)

            def body() -> None:
                with self.scoped() as scope:
                    scope.names[node.element] = number
                    if node.index is not None:
                        scope.names[node.index] = at
                    self.execute(node.body)

            return self._once(target, body, node.span)

        assert isinstance(place.type, t.Range)
        self._run(node, range(start, stop, step), place.type.element, cells, once)
        return self._leave(target, node.span)

    def _while(self, node: ast.While, expected: Type | None) -> Value:
        cells = self._carried(node)
        if cells is None:
            return super()._while(node, expected)
        target = self.target(node.label, True, None, node.span)

        def once(_: Value, at: Value) -> bool:
            if not self._holds(node):
                return False
            self._count(now(at), node.span)
            if not self._once(target, lambda: self.action(node.body, t.VOID), node.span):
                return False
            if node.step is not None:
                self.execute(node.step)
            return True

        self.frame.targets.append(target)
        try:
            self._run(node, None, t.U16, cells, once)
            return self._leave(target, node.span)
        finally:
            self.frame.targets.pop()

    def _carried(self, node: ast.For | ast.While) -> list[Cell] | None:
        """The variables from outside that a loop assigns to; None if the loop cannot be recorded."""
        if not self.tracing or not self.frame.comptime or id(node) in self.given_up:
            return None
        names = self._assigned.get(id(node))
        if names is None:
            names = self._assigned[id(node)] = _assigned(node)
        found = []
        for name, whole in names.items():
            place = self.frame.scope.find(name)
            if isinstance(place, CellPlace):
                cell = place.cell
                simple = t.is_integer(cell.type) or cell.type is t.BOOL
                if not whole or not simple or place.path or cell.value is None:
                    self.given_up.add(id(node))
                    return None
                found.append(cell)
        return None if self._top + len(found) + 2 > SLOTS else found

    def _run(
        self, node: ast.For | ast.While, numbers: range | None, type: Type, cells: list[Cell], once: Iteration
    ) -> None:
        """All iterations of a loop."""
        parent, first, limit = self.recording, self._top, self.options.max_inlined_iterations
        known = {} if parent is None else dict(parent.known)
        start = [self.settled(cell.value) for cell in cells if cell.value is not None]
        loop = Loop(node, numbers, tuple(map(self.text_of, start)), limit, first)
        shared = self.add(loop)
        if isinstance(shared, Loop):
            loop = shared
        values = tuple(now(one) for one in start)
        counts = self._counts.setdefault(id(node), [0, 0])
        assert self.layout is not None
        try:
            for at, number in enumerate(count() if numbers is None else numbers):
                row = self.variables
                row[loop.element], row[loop.counter], row[loop.carried] = number, at, values
                recorded = id(node) not in self.given_up
                done: Done = []
                end = replay(loop.root, row, done) if recorded and at < limit else None
                if end is not None and commit(self.layout, done):
                    values = end.compute(row)
                    counts[1] += 1
                    if end.last:
                        break
                    continue
                row[loop.element], row[loop.counter], row[loop.carried] = number, at, values
                follows, values = self._walk(loop, known if recorded else None, type, cells, once)
                if not follows:
                    break
        finally:
            self._top = first
        if parent is not None and parent.alive:
            self._top = loop.to.stop
            self.variables[loop.to] = values
        for slot, (cell, value) in enumerate(zip(cells, values, strict=True), loop.to.start):
            if self._may_change(cell):
                cell.value = self._variable_value(cell.type, slot, *bounds(cell.type))
            else:
                cell.value = Value(cell.type, value)

    def _walk(
        self, loop: Loop, known: dict[str, int] | None, type: Type, cells: list[Cell], once: Iteration
    ) -> tuple[bool, tuple[int, ...]]:
        """One iteration, recorded if what is `known` is given; whether others follow, and what the cells hold then."""
        row, numbers, node = self.variables, loop.numbers, loop.node
        number, at = Value(type, row[loop.element]), Value(t.U16, row[loop.counter])
        for slot, cell in enumerate(cells, loop.carried.start):
            cell.value = Value(cell.type, row[slot])
        if known is None:
            follows = once(number, at)
            return follows, tuple(now(cell.value) for cell in cells if cell.value is not None)
        recording = Recording(loop, dict(known), frozenset(cells))
        self.recordings.append(recording)
        self._top = loop.carried.stop
        if numbers is not None:
            number = self._variable_value(type, loop.element, min(numbers), max(numbers))
            at = self._variable_value(t.U16, loop.counter, 0, len(numbers) - 1)
        for slot, cell in enumerate(cells, loop.carried.start):
            cell.value = self._variable_value(cell.type, slot, *bounds(cell.type))
        try:
            follows = once(number, at)
        except (Breaking, Continuing, Returning) as leaving:  # a loop that others leave too is part of theirs
            self.give_up(node)
            if not isinstance(leaving, Continuing):
                leaving.value = plain(leaving.value)
            raise
        except BaseException:
            self.drop()
            raise
        finally:
            ends = [self.settled(cell.value) for cell in cells if cell.value is not None]
            texts, values = tuple(map(self.text_of, ends)), tuple(map(now, ends))
            self.recordings.pop()
            for cell, value in zip(cells, values, strict=True):
                cell.value = Value(cell.type, value)
        if recording.alive:
            self.end(recording, not follows, texts)
        counts = self._counts[id(node)]
        counts[0] += 1
        if counts[0] >= COURSES and 4 * counts[1] < counts[0]:
            self.give_up(node)
        return follows, values

    def _variable_value(self, type: Type, slot: int, low: Bound, high: Bound) -> Value:
        return Traced(self, type, self.variables[slot], f"v[{slot}]", low, high)

    # --- what may outlive an iteration ---

    def _declare(self, node: ast.Variable, comptime: bool) -> None:
        super()._declare(node, comptime)
        recording, found = self.recording, self.frame.scope.names.get(node.name)
        if recording is not None and isinstance(found, CellPlace):
            recording.born.add(found.cell)

    def _store_cell(self, place: CellPlace, value: Value, span: Span) -> None:
        if not self._may_change(place.cell):
            value = plain(value)
        super()._store_cell(place, value, span)

    def _may_change(self, cell: Cell) -> bool:
        """Whether the record has a place for what a variable holds; if not, the loops around are not recorded."""
        held = False
        for one in reversed(self.recordings):
            if one is None or not one.alive:
                break
            if cell in one.born:
                return True
            if cell not in one.carried:
                self.give_up(one.loop.node)
                return False
            held = True
        return held

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Code that runs once, whoever needs it first, belongs to no iteration."""
        self.recordings.append(None)
        try:
            yield
        finally:
            self.recordings.pop()

    def resolve(self, one: Global, span: Span) -> None:
        """Computes the value of a global."""
        with self._unrecorded():
            super().resolve(one, span)

    def signature(self, function: FunctionValue) -> Signature | None:
        """The signature of a function that is not generic."""
        with self._unrecorded():
            return super().signature(function)

    def import_module(self, name: str, params: dict[str, Value], span: Span) -> ModuleInstance:
        """A new instance of a file's module; it outlives the iteration."""
        return super().import_module(name, {param: plain(one) for param, one in params.items()}, span)

    # --- builtins ---

    def _call_of(self, node: ast.Builtin, expected: Type | None) -> Call:
        if node.name not in PURE:
            self.drop()
        return super()._call_of(node, expected)

    def _builtin(self, node: ast.Builtin, expected: Type | None) -> Value:
        if node.name not in TILES:
            return super()._builtin(node, expected)
        call = TileCall(self, node, expected)
        value = self._entry(node).handler(call)
        if self.recording is not None:
            self._record(call)
        return value

    def _record(self, call: TileCall) -> None:
        """A call that says something of a tile: its place may be an expression, the rest is what it is."""
        facts = self.layout
        assert facts is not None
        assert facts.rectangle is not None
        texts = []
        for one, size in zip(call.places, facts.rectangle, strict=True):
            texts.append(self.text_of(one))
            if isinstance(one, Traced) and (one.low < 0 or one.high >= size):
                self.test(f"(0 <= {one.text} < {size})", True)
        text = f"({', '.join(texts)})"
        where = expression(text)
        x, y = where(self.variables)
        if call.name == "set_tile_code":
            self.add(Tile(text, where, facts.tiles[x, y]))
        else:
            color, route = list(facts.routes[x, y].items())[-1]
            self.add(Color(text, color, where, route))


def _assigned(loop: ast.Node) -> dict[str, bool]:
    """The names that a loop assigns to, or to parts of; whether it is only ever to the whole."""
    found: dict[str, bool] = {}
    for node in nodes(loop):
        if isinstance(node, ast.Assign):
            target, whole = node.target, True
            while isinstance(target, ast.Member | ast.Index):
                target, whole = target.base, False
            if isinstance(target, ast.Name):
                found[target.text] = found.get(target.text, True) and whole
    return found
