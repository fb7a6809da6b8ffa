"""Loops: executed by the compiler, unrolled (`inline`), or code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._flow import Flow
from openwafer.csl.sema._scope import Arrival, Breaking, Continuing, Target
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import LocalPlace, MemoryPlace, Place, Value, ValuePlace
from openwafer.csl.syntax import ast


class Loops(Flow):
    """`while` and `for`."""

    def loop_handlers(self) -> dict[type, Callable[[Any, Type | None], Value]]:
        """What this part contributes to the table of handlers."""
        return {ast.While: self._while, ast.For: self._for}

    # --- known iterations ---

    def _count(self, done: int, span: Span) -> None:
        limit = self.options.max_inlined_iterations
        if done >= limit:
            self.fail(
                span,
                f"this loop ran {limit} times at compile time and did not end",
                hint="mend its condition, or raise --max-inlined-iterations",
            )

    def _once(self, target: Target, body: Callable[[], object], span: Span) -> bool:
        """One iteration that the compiler executes or unrolls; whether others follow."""
        if target.comptime:
            try:
                body()
            except Continuing as found:
                if found.target is not target:
                    raise
            except Breaking as found:
                if found.target is not target:
                    raise
                return False
            return True
        body()
        ways = [*target.continues]
        target.continues.clear()
        if not self.dead():
            ways.append(self.arrival(v.NOTHING, span))
        self.merge(ways, None, span)
        return not self.dead()

    def _leave(self, target: Target, span: Span) -> Value:
        """Where a loop of running code ends."""
        if target.comptime:
            return v.NOTHING
        ways = list(target.breaks)
        if not self.dead():
            ways.append(self.arrival(v.NOTHING, span))
        return self.merge(ways, None, span)

    # --- while ---

    def _while(self, node: ast.While, expected: Type | None) -> Value:
        frame = self.frame
        target = self.target(node.label, True, None, node.span)
        frame.targets.append(target)
        try:
            if frame.comptime or node.inline:
                done = 0
                while self._holds(node):
                    self._count(done, node.span)
                    done += 1
                    if not self._once(target, lambda: self.action(node.body, t.VOID), node.span):
                        break
                    if node.step is not None:
                        self.execute(node.step)
                return self._leave(target, node.span)
            return self._running_while(node, target)
        finally:
            frame.targets.pop()

    def _holds(self, node: ast.While) -> bool:
        condition = self.truth(self.evaluate(node.condition, t.BOOL), node.condition.span, "the condition")
        what = "the condition of an inline loop" if node.inline else "the condition"
        truth: bool = self.require_known(condition, node.condition.span, what).data
        return truth

    def _running_while(self, node: ast.While, target: Target) -> Value:
        builder = self.builder(node.span)
        header = builder.new_block()
        builder.jump(header)
        builder.block = header
        frame = self.frame
        outer = frame.control
        frame.control = object()
        try:
            condition = self.truth(
                self.evaluate(node.condition, t.BOOL), node.condition.span, "the condition"
            )
            if condition.known and not condition.data:
                return v.NOTHING
            before = None
            if not condition.known:
                before = builder.block
                builder.block = builder.new_block()
            body = builder.block
            self.action(node.body, t.VOID)
            ways = [*target.continues]
            if not self.dead():
                ways.append(self.arrival(v.NOTHING, node.body.span))
            self.merge(ways, None, node.span)
            if node.step is not None and not self.dead():
                self.execute(node.step)
            builder.jump(header)
        finally:
            frame.control = outer
        ways = list(target.breaks)
        if before is not None and body is not None:
            exit = builder.new_block()
            builder.block = before
            builder.branch(self.operand(condition, node.span), body, exit)
            ways.append(Arrival(exit, v.NOTHING, node.span))
        return self.merge(ways, None, node.span)

    # --- for ---

    def _for(self, node: ast.For, expected: Type | None) -> Value:
        frame = self.frame
        target = self.target(node.label, True, None, node.span)
        place = self.place(node.sequence)
        type = place.type
        if not isinstance(type, t.Range | t.Array):
            hint = f"count with `@range({type}, n)`" if t.is_integer(type) else ""
            self.fail(
                node.sequence.span, "`for`", expected="an array or a range", found=f"`{type}`", hint=hint
            )
        frame.targets.append(target)
        try:
            if frame.comptime or node.inline:
                return self._known_for(node, place, target)
            if isinstance(type, t.Array):
                return self._running_array(node, place, type, target)
            return self._running_range(node, self.load(place, node.sequence.span), type.element, target)
        finally:
            frame.targets.pop()

    def _known_for(self, node: ast.For, place: Place, target: Target) -> Value:
        for done, one in enumerate(self._items(node, place)):
            self._count(done, node.span)

            def body(one: Value = one, done: int = done) -> None:
                with self.scoped() as scope:
                    scope.names[node.element] = one
                    if node.index is not None:
                        scope.names[node.index] = Value(t.U16, done)
                    self.execute(node.body)

            if not self._once(target, body, node.span):
                break
        return self._leave(target, node.span)

    def _items(self, node: ast.For, place: Place) -> Iterator[Value]:
        span, type = node.sequence.span, place.type
        if isinstance(type, t.Array):
            count = type.extents[0]
            if len(type.extents) != 1:
                self._one_dimension(node, type)
            for at in range(count):
                yield self.load(self.element(place, [v.comptime_int(at)], [span], span), span)
            return
        value = self.require_known(self.load(place, span), span, "the range of a loop at compile time")
        assert isinstance(type, t.Range)
        start, stop, step = (one.data for one in value.data)
        if step == 0:
            self.fail(span, "a range with step 0 never ends")
        for number in range(start, stop, step):
            yield Value(type.element, number)

    def _one_dimension(self, node: ast.For, type: t.Array) -> None:
        self.fail(
            node.sequence.span, "`for`", expected="an array of one dimension", found=f"`{type}`",
            hint="count with @range over each dimension",
        )  # fmt: skip

    def _running_array(self, node: ast.For, place: Place, type: t.Array, target: Target) -> Value:
        if len(type.extents) != 1:
            self._one_dimension(node, type)
        span = node.sequence.span
        if isinstance(place, ValuePlace):
            place = self.in_memory(place, span)
        elif not isinstance(place, MemoryPlace):
            place = self.in_memory(ValuePlace(self.load(place, span), type), span)
        if self.comptime_only(type):
            self.fail(
                span, f"elements of type `{type.element}` exist only at compile time", hint="use `inline for`"
            )
        array = place

        def element(index: Value) -> Value:
            value = self.load(self.element(array, [index], [span], span), span)
            return self.snapshot(value, node.element, span)

        stop = Value(t.U16, type.count)
        if type.count == 0:
            return v.NOTHING
        parts = (Value(t.U16, 0), stop, Value(t.U16, 1))
        return self._counted(node, parts, t.U16, target, element)

    def snapshot(self, value: Value, name: str, span: Span) -> Value:
        """The value as it is now: an array or struct in memory is copied, so that later changes do not show."""
        if not t.is_aggregate(value.type) or value.known or isinstance(value.data, tuple):
            return value
        made = self.in_frame(value.type, name, span)
        self.fill(made, value, span)
        return v.code(value.type, made.address)

    def _running_range(self, node: ast.For, value: Value, type: t.Primitive, target: Target) -> Value:
        span = node.sequence.span
        start, stop, step = value.data
        if self.comptime_only(type):
            self.fail(span, f"numbers of type `{type}` exist only at compile time", hint="`@range(i16, ...)`")
        self.require_known(step, span, "the step of a range")
        if step.data == 0:
            self.fail(span, "a range with step 0 never ends")
        if start.known and stop.known and not range(start.data, stop.data, step.data):
            return v.NOTHING
        return self._counted(node, (start, stop, step), type, target, None)

    def _counted(
        self,
        node: ast.For,
        parts: tuple[Value, Value, Value],
        type: t.Primitive,
        target: Target,
        element: Callable[[Value], Value] | None,
    ) -> Value:
        """A loop over start, start + step, ... before stop; `element` makes the loop's value of the number."""
        start, stop, step = parts
        span, builder = node.sequence.span, self.builder(node.span)
        location, code = self.location(span), type.ir
        assert code is not None
        if builder.block is None:
            return v.NOTHING
        counter = builder.local(node.element if element is None else node.index or "index", code)
        position = None
        if node.index is not None and element is None:
            position = builder.local(node.index, "u16")
            builder.emit(ir.Set(position, ir.Number("u16", 0), location))
        limit = self.operand(stop, span)
        builder.emit(ir.Set(counter, self.operand(start, span), location))
        header = builder.new_block()
        builder.jump(header)
        builder.block = header
        at = builder.number()
        builder.emit(ir.Get(at, counter, location))
        more = builder.number()
        comparison: ir.Comparison = "lt" if step.data > 0 else "gt"
        builder.emit(ir.Compare(more, comparison, code, ir.Temporary(at), limit, location))
        before, body = builder.block, builder.new_block()
        builder.block = body
        with self.controlled(), self.scoped() as scope:
            if element is None:
                scope.names[node.element] = LocalPlace(counter, type, True)
            else:
                index = self.load(LocalPlace(counter, type, True), span)
                scope.names[node.element] = element(index)
                if node.index is not None:
                    scope.names[node.index] = LocalPlace(counter, type, True)
            if position is not None and node.index is not None:
                scope.names[node.index] = LocalPlace(position, t.U16, True)
            with self.scoped():
                self.execute(node.body)
        ways = [*target.continues]
        if not self.dead():
            ways.append(self.arrival(v.NOTHING, node.body.span))
        self.merge(ways, None, node.span)
        ends: list[Arrival] = list(target.breaks)
        if not self.dead():
            if position is not None:
                self._advance(position, "u16", 1, location)
            ends.extend(self._overflow(counter, limit, parts, type, span))
            self._advance(counter, code, step.data, location)
            builder.jump(header)
        exit = builder.new_block()
        builder.block = before
        builder.branch(ir.Temporary(more), body, exit)
        ends.append(Arrival(exit, v.NOTHING, node.span))
        return self.merge(ends, None, node.span)

    def _advance(self, local: str, code: ir.Type, step: int, location: int) -> None:
        builder = self.frame.builder
        assert builder is not None
        at, after = builder.number(), builder.number()
        builder.emit(ir.Get(at, local, location))
        operation: ir.Arithmetic = "add" if step > 0 else "sub"
        builder.emit(
            ir.Compute(after, operation, code, (ir.Temporary(at), ir.Number(code, abs(step))), location)
        )
        builder.emit(ir.Set(local, ir.Temporary(after), location))

    def _overflow(
        self,
        counter: str,
        limit: ir.Operand,
        parts: tuple[Value, Value, Value],
        type: t.Primitive,
        span: Span,
    ) -> list[Arrival]:
        """A step that could pass the end of the type ends the loop before it is done."""
        _, stop, step = parts
        size = abs(step.data)
        if size == 1:
            return []
        if stop.known and type.low <= stop.data + (size - 1) * (1 if step.data > 0 else -1) <= type.high:
            return []
        builder, location, code = self.builder(span), self.location(span), type.ir
        assert code is not None
        at, left, more = (builder.number() for _ in range(3))
        wide: ir.Type = (
            "u64" if type.bits == 64 else "u32" if type.bits == 32 else "u16" if type.bits == 16 else "u8"
        )
        builder.emit(ir.Get(at, counter, location))
        operands = (limit, ir.Temporary(at)) if step.data > 0 else (ir.Temporary(at), limit)
        builder.emit(ir.Compute(left, "sub", code, operands, location))
        value: ir.Operand = ir.Temporary(left)
        if wide != code:
            cast = builder.number()
            builder.emit(ir.Bitcast(cast, code, wide, value, location))
            value = ir.Temporary(cast)
        builder.emit(ir.Compare(more, "gt", wide, value, ir.Number(wide, size), location))
        before, following, exit = builder.block, builder.new_block(), builder.new_block()
        builder.branch(ir.Temporary(more), following, exit)
        builder.block = following
        assert before is not None
        return [Arrival(exit, v.NOTHING, span)]
