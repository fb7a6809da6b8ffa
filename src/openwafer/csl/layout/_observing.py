"""The engine while it records: what it asks of traced values is noted, and their arithmetic stays an expression."""

from __future__ import annotations

from typing import Any

from openwafer.csl._source import Span
from openwafer.csl.layout import _symbolic as symbolic
from openwafer.csl.layout._tape import SLOTS, Mismatch, Node, Recording, Step, Variables, expression
from openwafer.csl.layout._traced import LONGEST, Bound, Traced, bounds
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._engine import Engine
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import ast

_SMALL = 1 << 64


class ObservingEngine(Engine):
    """Computes as `Engine` does. Where numbers differ from one iteration to the next, it keeps how they come about."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recordings: list[Recording | None] = []
        """The iterations that are being walked, from outside to inside; None: code that runs once, whoever needs it first."""
        self.variables: Variables = [0] * SLOTS
        self.given_up: set[int] = set()
        """Loops that are not recorded, by the id of their nodes."""

    @property
    def recording(self) -> Recording | None:
        """The innermost one, if it is any good."""
        found = self.recordings[-1] if self.recordings else None
        return found if found is not None and found.alive else None

    def drop(self) -> None:
        """What happens now is not recorded, so the iterations around it are not either."""
        for one in reversed(self.recordings):
            if one is None or not one.alive:
                return
            one.alive = False

    def give_up(self, loop: ast.Node) -> None:
        """The iterations of a loop are no longer recorded; for the loops around it they become ordinary statements."""
        self.given_up.add(id(loop))
        for one in self.recordings:
            if one is not None:
                one.loop.root = Node()
        self.drop()

    def _differs(self) -> None:
        """An iteration did not do what another did that was asked the same: what it depends on cannot all be seen."""
        for one in self.recordings:
            if one is not None:
                self.given_up.add(id(one.loop.node))
        self.drop()

    def test(self, text: str, outcome: int) -> None:
        """The course of this iteration depends on this outcome of an expression."""
        recording = self.recording
        if recording is not None and text not in recording.known:
            try:
                recording.test(text, outcome)
            except Mismatch:
                self._differs()

    def observe(self, value: Traced) -> None:
        """The course of this iteration depends on this value."""
        self.test(value.text, value.now)

    def add(self, step: Step) -> Step | None:
        """Records what happened; gives the step that the record has for it, None if there is no record."""
        recording = self.recording
        try:
            return None if recording is None else recording.add(step)
        except Mismatch:
            self._differs()
            return None

    def end(self, recording: Recording, last: bool, values: tuple[str, ...]) -> None:
        """The end of an iteration, which left the loop if it is the `last`, and what the loop's variables hold then."""
        try:
            recording.finish(last, values)
        except Mismatch:
            self.given_up.add(id(recording.loop.node))
            self._differs()

    # --- expressions ---

    def settled(self, value: Value) -> Value:
        """The value itself where it is certain along this course anyway, so that no expression is needed."""
        if isinstance(value, Traced):
            recording = self.recording
            if recording is None or value.text in recording.known:
                return Value(value.type, value.now)
        return value

    def text_of(self, value: Value) -> str:
        """The expression of an integer or bool."""
        return value.text if isinstance(value, Traced) else str(value.data)

    def _made(self, type: Type, text: str, low: Bound, high: Bound) -> Value | None:
        """The value of an expression; None if it is not one of `type` in this iteration, or if the text is too long."""
        if len(text) > LONGEST:
            return None
        now = expression(text)(self.variables)
        least, most = bounds(type)
        if not (least <= low and high <= most):
            fits = bool(least <= now <= most)
            self.test(f"({least} <= {text} <= {most})", fits)
            if not fits:
                return None
            low, high = max(low, least), min(high, most)
        return Traced(self, type, now, text, low, high)

    def _interval(self, value: Value) -> symbolic.Interval:
        if isinstance(value, Traced):
            return value.low, value.high
        number: int = value.data
        return (number, number) if -_SMALL < number < _SMALL else symbolic.INFINITE

    def apply(
        self, operator: str, left: Value, right: Value, span: Span, left_span: Span, right_span: Span
    ) -> Value:
        """`left operator right`."""
        left, right = self.settled(left), self.settled(right)
        if isinstance(left, Traced) or isinstance(right, Traced):
            found = self._applied(operator, left, right)
            if found is not None:
                return found
        return super().apply(operator, left, right, span, left_span, right_span)

    def _applied(self, operator: str, left: Value, right: Value) -> Value | None:
        """The same for integers that meet in a type which has both; errors are left to the general way."""
        if not (left.known and right.known and t.is_integer(left.type) and t.is_integer(right.type)):
            return None
        type = self.common(left.type, right.type)
        if type is None:
            return None
        first, second = self._met(left, type), self._met(right, type)
        if first is None or second is None:
            return None
        a, b = self._interval(first), self._interval(second)
        texts = self.text_of(first), self.text_of(second)
        if operator in symbolic.COMPARISONS:
            decided = symbolic.decided(operator, a, b)
            if decided is not None:
                return v.boolean(decided)
            return self._made(t.BOOL, f"({texts[0]} {operator} {texts[1]})", 0, 1)
        if operator in symbolic.OF_NATURALS:
            a, b = self._natural(first, a), self._natural(second, b)
        found = symbolic.arithmetic(operator, *texts, a, b)
        return None if found is None else self._made(type, found[0], *found[1])

    def _met(self, value: Value, type: Type) -> Value | None:
        """An operand in the type of the operation, None if that does not have it."""
        if value.type is type:
            return value
        if isinstance(value, Traced):
            return self._retyped(value, type)
        least, most = bounds(type)
        return value if least <= value.data <= most else None

    def _natural(self, value: Value, interval: symbolic.Interval) -> symbolic.Interval:
        """Where a number lies that is not negative in this iteration."""
        if not isinstance(value, Traced) or interval[0] >= 0 or value.now < 0:
            return interval
        self.test(f"(0 <= {value.text})", True)
        return 0, interval[1]

    def apply_unary(self, operator: str, value: Value, node: ast.Unary) -> Value:
        """`operator value`."""
        value = self.settled(value)
        made = None
        if isinstance(value, Traced):
            if operator == "!" and value.type is t.BOOL:
                made = self._made(t.BOOL, f"(not {value.text})", 0, 1)
            elif operator == "-" and t.is_integer(value.type):
                made = self._made(value.type, f"(-{value.text})", -value.high, -value.low)
        return made or super().apply_unary(operator, value, node)

    def convert(self, value: Value, type: Type, span: Span) -> Value:
        """`@as(type, value)`."""
        return self._retyped(value, type) or super().convert(value, type, span)

    def _from_comptime_int(self, value: Value, type: Type, span: Span) -> Value | None:
        return self._retyped(value, type) or super()._from_comptime_int(value, type, span)

    def _retyped(self, value: Value, type: Type) -> Value | None:
        """The same number in another type of integers, where that has it."""
        value = self.settled(value)
        if isinstance(value, Traced) and t.is_integer(value.type) and t.is_integer(type):
            return self._made(type, value.text, value.low, value.high)
        return None
