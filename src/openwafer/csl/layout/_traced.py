"""Values that depend on the variables of loops: the engine works with them as with others, and what it learns is noted."""

from __future__ import annotations

from typing import Any, Protocol

from openwafer.csl.sema import _types as t
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value

LONGEST = 160
"""Characters of an expression; what would be longer is computed as it stands."""

Bound = int | float
"""An integer, or an infinity."""


class Observer(Protocol):
    """Who has to know that a value was looked at."""

    def observe(self, value: Traced) -> None: ...


class Traced(Value):
    """An integer or bool that is known in this iteration, and the expression that has it in every iteration.

    Whoever reads `data` makes the course of the iteration depend on it: that is noted, whoever it is.
    """

    __slots__ = ("_observer", "high", "low", "now", "text")

    def __init__(self, observer: Observer, type: Type, now: int, text: str, low: Bound, high: Bound) -> None:
        self.type = type
        self.known = True
        self.now = now
        """What it is in this iteration. Only for what ends up as an expression, or behind a test that settles it."""
        self.text = text
        self.low = low
        self.high = high
        self._observer = observer

    @property
    def data(self) -> Any:
        """The payload."""
        self._observer.observe(self)
        return self.now

    def __repr__(self) -> str:
        return f"Traced({self.type}, {self.text} = {self.now})"


def bounds(type: Type) -> tuple[Bound, Bound]:
    """Between which a value of the type lies."""
    if type is t.BOOL:
        return 0, 1
    if isinstance(type, t.Primitive) and t.is_fixed_integer(type):
        return type.low, type.high
    return float("-inf"), float("inf")


def now(value: Value) -> Any:
    """What a value is in this iteration, without a note of it."""
    return value.now if isinstance(value, Traced) else value.data


def plain(value: Value) -> Value:
    """The value without expressions, after every part was looked at: what may outlive the iteration."""
    if isinstance(value, Traced):
        return Value(value.type, value.data)
    if isinstance(value.data, tuple):
        parts = tuple(plain(one) if isinstance(one, Value) else one for one in value.data)
        if any(new is not old for new, old in zip(parts, value.data, strict=True)):
            return Value(value.type, parts, value.known)
    return value
