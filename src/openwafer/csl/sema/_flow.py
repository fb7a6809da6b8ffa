"""Blocks, branches, and where ways of running code come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._expressions import Expressions
from openwafer.csl.sema._scope import Arrival, Breaking, Continuing, Failure, Returning, Target, Unmet
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import MemoryPlace, Value
from openwafer.csl.syntax import ast


class Flow(Expressions):
    """`{ }`, `if`, `switch`, `break`, `continue`, `return`."""

    def flow_handlers(self) -> dict[type, Callable[[Any, Type | None], Value]]:
        """What this part contributes to the table of handlers."""
        return {
            ast.Block: self.block,
            ast.If: self._if,
            ast.Switch: self._switch,
            ast.Comptime: self._comptime,
            ast.Return: self._return,
            ast.Break: self._break,
            ast.Continue: self._continue,
        }

    # --- merging ---

    def arrival(self, value: Value, span: Span) -> Arrival:
        """The way that ends here."""
        builder = self.frame.builder
        return Arrival(None if builder is None else builder.block, value, span)

    def merge(self, arrivals: list[Arrival], expected: Type | None, span: Span) -> Value:
        """Goes on where several ways of running code come together; the value of the one that was taken."""
        builder = self.builder(span)
        alive = [one for one in arrivals if one.block is not None]
        if not alive:
            builder.block = None
            return v.NOTHING
        if len(alive) == 1:
            builder.block = alive[0].block
            return alive[0].value
        type = self._common_of(alive, expected, span)
        if type is t.VOID:
            exit = builder.new_block()
            for one in alive:
                builder.block = one.block
                builder.jump(exit)
            builder.block = exit
            return v.NOTHING
        if self.comptime_only(type):
            self.fail(
                span,
                f"which value this has depends on running code, but values of type `{type}` exist only at compile time",
                hint="give it a type that running code has: `const x: i16 = ...`",
            )
        where = self.in_result(type, span, alive)
        exit = builder.new_block()
        for one in alive:
            builder.block = one.block
            value = self.coerce(one.value, type, one.span)
            if isinstance(where, str):
                builder.emit(ir.Set(where, self.operand(value, one.span), self.location(one.span)))
            else:
                frame = builder.number()
                builder.emit(ir.Frame(frame, where[0], self.location(span)))
                self.fill(MemoryPlace(ir.Temporary(frame), type, True), value, one.span)
            builder.jump(exit)
        builder.block = exit
        number = builder.number()
        if isinstance(where, str):
            builder.emit(ir.Get(number, where, self.location(span)))
        else:
            builder.emit(ir.Frame(number, where[0], self.location(span)))
        return v.code(type, ir.Temporary(number))

    def in_result(self, type: Type, span: Span, alive: list[Arrival]) -> str | tuple[str]:
        """A local for the value; a variable of the frame, in a tuple, for arrays and structs."""
        builder = self.builder(span)
        if t.is_aggregate(type):
            return (builder.local("value", "void", bytes=type.bytes, align=type.align),)
        code = type.ir
        assert code is not None
        return builder.local("value", code)

    def _common_of(self, alive: list[Arrival], expected: Type | None, span: Span) -> Type:
        types = [one.value.type for one in alive]
        if expected is t.VOID:  # a statement: nobody looks at its value
            return t.VOID
        if expected is not None and expected is not t.COMPTIME_STRUCT and t.VOID not in types:
            # `@as(i16, if (c) x else y)` converts what the ways give; where nothing converts, that is an error of its user.
            agreed = (
                t.is_numeric(expected) and all(one is types[0] for one in types) and types[0].ir is not None
            )
            return types[0] if agreed and t.is_numeric(types[0]) else expected
        type = types[0]
        for one in alive[1:]:
            found = self.common(type, one.value.type)
            if found is None:
                self.fail(
                    one.span,
                    "all ways must give the same type",
                    expected=f"`{type}`",
                    found=f"`{one.value.type}`",
                    hint="convert one of them with @as",
                )
            type = found
        return type

    # --- blocks ---

    def block(self, node: ast.Block, expected: Type | None) -> Value:
        """`{ ... }`; the value of a labelled block is what `break :label` gives."""
        if node.label is None:
            with self.scoped():
                self.statements(node.statements)
            return v.NOTHING
        target = self.target(node.label, False, expected, node.span)
        return self.targeted(target, node.span, lambda: self._body(node))

    def _body(self, node: ast.Block) -> Value:
        with self.scoped():
            self.statements(node.statements)
        return v.NOTHING

    def targeted(self, target: Target, span: Span, body: Callable[[], Value]) -> Value:
        """What `body` gives, or the `break` that leaves it."""
        frame = self.frame
        frame.targets.append(target)
        try:
            if target.comptime:
                try:
                    return body()
                except Breaking as found:
                    if found.target is not target:
                        raise
                    return found.value
            value = body()
            if self.dead() and len(target.breaks) == 1:
                return self.merge(target.breaks, target.expected, span)
            expected = target.expected
            if not self.dead():
                expected = None
                target.breaks.append(self.arrival(value, span))
            return self.merge(target.breaks, expected, span)
        finally:
            frame.targets.pop()

    def target(self, label: str | None, loop: bool, expected: Type | None, span: Span) -> Target:
        """Something that `break` can leave; labels around each other differ."""
        if label is not None and any(one.label == label for one in self.frame.targets):
            self.fail(span, f"the label `{label}` is already used around this", hint="choose another name")
        return Target(label, loop, self.frame.comptime, expected)

    def statements(self, nodes: tuple[ast.Statement, ...]) -> None:
        """Statements in order, as far as control gets; one with an error does not hide those behind it."""
        failed = False
        for node in nodes:
            if self.dead():
                break
            try:
                self.execute(node)
            except Unmet:
                raise
            except Failure:
                if self.frame.comptime:
                    raise
                failed = True
        if failed:
            raise Failure

    # --- branches ---

    def _if(self, node: ast.If, expected: Type | None) -> Value:
        frame = self.frame
        outer = frame.control
        arrivals: list[Arrival] = []
        branched = False
        try:
            for arm in node.arms:
                condition = self.truth(
                    self.evaluate(arm.condition, t.BOOL), arm.condition.span, "the condition"
                )
                if condition.known:
                    if not condition.data:
                        continue
                    value = self.action(arm.body, expected)
                    if not branched:
                        return value
                    arrivals.append(self.arrival(value, arm.body.span))
                    break
                if frame.comptime:
                    self.require_known(condition, arm.condition.span, "the condition")
                builder = self.builder(node.span)
                before = builder.block
                builder.block = builder.new_block()
                then = builder.block
                branched = True
                frame.control = object()
                value = self.action(arm.body, expected)
                arrivals.append(self.arrival(value, arm.body.span))
                otherwise = builder.new_block()
                builder.block = before
                builder.branch(self.operand(condition, node.span), then, otherwise)
                builder.block = otherwise
            else:
                value = v.NOTHING if node.otherwise is None else self.action(node.otherwise, expected)
                if not branched:
                    return value
                span = node.span if node.otherwise is None else node.otherwise.span
                arrivals.append(self.arrival(value, span))
                if expected is not t.VOID:
                    self._check_else(node, arrivals)
        finally:
            frame.control = outer
        return self.merge(arrivals, expected, node.span)

    def _check_else(self, node: ast.If, arrivals: list[Arrival]) -> None:
        if node.otherwise is not None:
            return
        for one in arrivals:
            if one.block is not None and one.value.type is not t.VOID:
                self.fail(
                    one.span,
                    f"this `if` has a value of type `{one.value.type}` only if its condition holds",
                    hint="add an `else`",
                )

    def action(self, node: ast.Action, expected: Type | None) -> Value:
        """What a branch or a prong does."""
        with self.scoped():
            return self.evaluate(node, expected)

    # --- switch ---

    def _switch(self, node: ast.Switch, expected: Type | None) -> Value:
        subject = self.evaluate(node.subject)
        type = subject.type
        if not t.is_fixed_integer(type) and not isinstance(type, t.Enum) and type is not t.COMPTIME_INT:
            self.fail(
                node.subject.span,
                "`switch`",
                expected="an integer of fixed width or an enum",
                found=f"`{type}`",
            )
        if type is t.COMPTIME_INT and self.options.dialect == "1.4":
            hint = "give it a width: `switch (@as(u16, ...))`"
            self.fail(
                node.subject.span,
                "`switch`",
                expected="an integer of fixed width",
                found=self.describe(subject),
                hint=hint,
            )
        cases, otherwise = self._cases(node, type)
        if subject.known:
            for (low, high), prong in cases:
                if low <= subject.data <= high:
                    return self.action(prong.body, expected)
            assert otherwise is not None
            return self.action(otherwise.body, expected)
        if self.frame.comptime:
            self.require_known(subject, node.subject.span, "what is switched on")
        return self._running_switch(node, subject, cases, otherwise, expected)

    def _cases(
        self, node: ast.Switch, type: Type
    ) -> tuple[list[tuple[tuple[int, int], ast.Prong]], ast.Prong | None]:
        cases: list[tuple[tuple[int, int], ast.Prong]] = []
        otherwise = None
        for prong in node.prongs:
            if not prong.cases:
                if otherwise is not None:
                    self.fail(prong.span, "a switch has one `else`")
                otherwise = prong
            for case in prong.cases:
                ends = (case.first, case.last) if isinstance(case, ast.Range) else (case, case)
                low, high = (self._case(one, type) for one in ends)
                if high < low:
                    self.fail(case.span, f"the range from {low} to {high} has no values")
                for (first, last), _ in cases:
                    if low <= last and first <= high:
                        self.fail(case.span, "this case stands in the switch twice")
                cases.append(((low, high), prong))
        if otherwise is None:
            self._check_covered(node, type, [ends for ends, _ in cases])
        return cases, otherwise

    def _case(self, node: ast.Expression, type: Type) -> int:
        value = self.coerce(self.evaluate(node, type), type, node.span, "a case")
        number: int = self.require_known(value, node.span, "a case").data
        return number

    def _check_covered(self, node: ast.Switch, type: Type, ends: list[tuple[int, int]]) -> None:
        def covered(number: int) -> bool:
            return any(low <= number <= high for low, high in ends)

        if isinstance(type, t.Enum):
            missing = [name for name, number in type.elements if not covered(number)]
            text = ", ".join(missing)
        else:
            assert isinstance(type, t.Primitive)
            count = sum(high - low + 1 for low, high in ends)
            missing = [] if type.bits and count == type.high - type.low + 1 else [""]
            text = f"some values of `{type}`"
        if missing:
            self.fail(node.span, f"the switch does not say what to do for {text}", hint="add `else => ...`")

    def _running_switch(
        self,
        node: ast.Switch,
        subject: Value,
        cases: list[tuple[tuple[int, int], ast.Prong]],
        otherwise: ast.Prong | None,
        expected: Type | None,
    ) -> Value:
        builder = self.builder(node.span)
        before = builder.block
        if before is None:
            return v.NOTHING
        arrivals: list[Arrival] = []
        starts: dict[int, ir.Block] = {}
        with self.controlled():
            for prong in node.prongs:
                starts[id(prong)] = builder.block = builder.new_block()
                value = self.action(prong.body, expected)
                arrivals.append(self.arrival(value, prong.body.span))
        if otherwise is not None:
            last = starts[id(otherwise)]
        else:
            last = builder.new_block()
            last.terminator = ir.Halt("unreachable", self.location(node.span))
        code = subject.type.ir
        assert code is not None
        builder.block = before
        single = [(low, builder.index(starts[id(prong)])) for (low, high), prong in cases if low == high]
        wide = [(ends, starts[id(prong)]) for ends, prong in cases if ends[0] != ends[1]]
        operand = self.operand(subject, node.span)
        for (low, high), start in wide:
            self._range_test(code, operand, low, high, start, node.span)
        builder.end(ir.Choose(code, operand, tuple(single), builder.index(last)))
        return self.merge(arrivals, expected, node.span)

    def _range_test(
        self, code: ir.Type, operand: ir.Operand, low: int, high: int, start: ir.Block, span: Span
    ) -> None:
        builder, location = self.builder(span), self.location(span)
        upper, following = builder.new_block(), builder.new_block()
        number = builder.number()
        builder.emit(ir.Compare(number, "ge", code, operand, ir.Number(code, low), location))
        builder.branch(ir.Temporary(number), upper, following)
        builder.block = upper
        number = builder.number()
        builder.emit(ir.Compare(number, "le", code, operand, ir.Number(code, high), location))
        builder.branch(ir.Temporary(number), start, following)
        builder.block = following

    # --- leaving ---

    def _comptime(self, node: ast.Comptime, expected: Type | None) -> Value:
        with self.at_comptime():
            value = self.evaluate(node.operand, expected)
        return self.require_known(value, node.span, "the value of `comptime`")

    def _return(self, node: ast.Return, expected: Type | None) -> Value:
        frame = self.frame
        if frame.result is None:
            self.fail(node.span, "`return` stands outside of a function")
        if node.value is None:
            value = v.NOTHING
            if frame.result is not t.VOID:
                self.fail(node.span, "`return` without a value", expected=f"a value of type `{frame.result}`")
        else:
            value = self.evaluate(node.value, frame.result)
            if not self.dead():
                value = self.coerce(value, frame.result, node.value.span, "the result")
        if frame.returns is not None and not frame.comptime:
            frame.returns.breaks.append(self.arrival(value, node.span))
            self.builder(node.span).block = None
            return v.NOTHING
        if frame.comptime:
            if frame.builder is not None:
                self.fail(node.span, "a comptime block cannot leave a function that runs on the PE")
            raise Returning(value)
        self.give(value, node.span)
        return v.NOTHING

    def give(self, value: Value, span: Span) -> None:
        """Ends the function with a result."""
        raise NotImplementedError

    def _find(self, label: str | None, span: Span, what: str, loops: bool) -> Target:
        for one in reversed(self.frame.targets):
            if (label is None and one.loop) or (
                label is not None and one.label == label and (one.loop or not loops)
            ):
                if self.frame.comptime and not one.comptime:
                    self.fail(span, f"`{what}` at compile time cannot leave a loop of running code")
                return one
        if label is None:
            self.fail(span, f"`{what}` stands outside of a loop", hint="blocks are left with `break :label`")
        labels = [one.label for one in self.frame.targets if one.label]
        self.fail(span, f"there is no label `{label}` around this", hint=self.similar(label, labels))

    def _break(self, node: ast.Break, expected: Type | None) -> Value:
        target = self._find(node.label, node.span, "break", False)
        value = v.NOTHING if node.value is None else self.evaluate(node.value, target.expected)
        if target.loop and value.type is not t.VOID:
            self.fail(node.span, "a loop has no value", hint="put it into a labelled block and leave that")
        if target.comptime:
            raise Breaking(target, value)
        target.breaks.append(self.arrival(value, node.span if node.value is None else node.value.span))
        self.builder(node.span).block = None
        return v.NOTHING

    def _continue(self, node: ast.Continue, expected: Type | None) -> Value:
        target = self._find(node.label, node.span, "continue", True)
        if target.comptime:
            raise Continuing(target)
        target.continues.append(self.arrival(v.NOTHING, node.span))
        self.builder(node.span).block = None
        return v.NOTHING
