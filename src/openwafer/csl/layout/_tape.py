"""What the iterations of a layout's loop did, as a tree that further iterations run along instead of walking the program.

A path of the tree is one course that an iteration can take: tests of expressions over the variables of the loops, what the
iteration said about tiles, loops inside of it, and its end. An iteration whose tests all have known outcomes does what that
path says; others have to walk the program, which adds a path. Variables are kept in a row, `v`; an expression is Python text
over it, such as `(v[0] + 1) % 2`, which the trace made of CSL whose meaning it has checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

from openwafer.artifact._image import Route
from openwafer.csl._source import Span
from openwafer.csl.sema._facts import LayoutFacts, TileCode
from openwafer.csl.syntax import ast

Variables: TypeAlias = list[int]
Done: TypeAlias = "list[tuple[Tile | Color, tuple[int, int]]]"

SLOTS = 256
"""Variables at once; an iteration that needs more is not recorded."""

_compiled: dict[str, Callable[[Variables], Any]] = {}


def expression(text: str) -> Callable[[Variables], Any]:
    """The function of `v` that a text of the trace means."""
    found = _compiled.get(text)
    if found is None:
        if len(_compiled) > 50_000:
            _compiled.clear()
        found = _compiled[text] = eval(f"lambda v: {text}", {"__builtins__": {}})
    return found


@dataclass(frozen=True, slots=True)
class End:
    """Of an iteration."""

    last: bool
    """It left the loop."""
    values: tuple[str, ...]
    """What the variables that the loop carries hold then."""
    compute: Callable[[Variables], tuple[int, ...]] = field(compare=False)


class Node:
    """What happens without further conditions, and then either a test or the end."""

    __slots__ = ("end", "steps", "test", "text", "ways")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.text = ""
        self.test: Callable[[Variables], Any] | None = None
        self.ways: dict[Any, Node] = {}
        self.end: End | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """`@set_tile_code(x, y, ...)` with everything but the place known."""

    text: str
    place: Callable[[Variables], tuple[int, int]] = field(compare=False)
    code: TileCode = field(compare=False)

    def replay(self, v: Variables, done: Done) -> bool:
        """Notes what is to be done."""
        done.append((self, self.place(v)))
        return True

    def commit(self, facts: LayoutFacts, place: tuple[int, int]) -> bool:
        """Does it, unless that would be an error."""
        if place in facts.tiles:
            return False
        facts.tiles[place] = self.code
        return True

    def undo(self, facts: LayoutFacts, place: tuple[int, int]) -> None:
        """Takes the last thing back that was done."""
        del facts.tiles[place]


@dataclass(frozen=True, slots=True)
class Color:
    """`@set_color_config(x, y, ...)` with everything but the place known."""

    text: str
    color: int
    place: Callable[[Variables], tuple[int, int]] = field(compare=False)
    route: tuple[Route, Span] = field(compare=False)

    def replay(self, v: Variables, done: Done) -> bool:
        """Notes what is to be done."""
        done.append((self, self.place(v)))
        return True

    def commit(self, facts: LayoutFacts, place: tuple[int, int]) -> bool:
        """Does it, unless that would be an error, or might be one: how many filters a PE has, the program itself asks."""
        routes = facts.routes.get(place)
        if routes is not None and (self.color in routes or self.route[0].filter is not None):
            return False
        facts.add_route(place, self.color, self.route)
        return True

    def undo(self, facts: LayoutFacts, place: tuple[int, int]) -> None:
        """Takes the last thing back that was done."""
        facts.drop_route(place, self.color)


class Loop:
    """A loop: its numbers or condition, what it carries from one iteration to the next, and what its iterations do."""

    __slots__ = (
        "carried",
        "compute",
        "counter",
        "element",
        "initial",
        "limit",
        "node",
        "numbers",
        "root",
        "to",
    )

    def __init__(
        self, node: ast.Node, numbers: range | None, initial: tuple[str, ...], limit: int, first: int
    ) -> None:
        self.node = node
        self.numbers = numbers
        """Of a `for`; None: a `while`."""
        self.initial = initial
        """What it carries, as it begins."""
        self.compute = together(initial)
        self.limit = limit
        self.element = first
        """The slot of the number."""
        self.counter = first + 1
        """The slot of how many iterations were before."""
        self.carried = slice(first + 2, first + 2 + len(initial))
        """Where an iteration finds what is carried."""
        self.to = slice(first, first + len(initial))
        """Where it lies behind the loop."""
        self.root = Node()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Loop)
            and self.node is other.node
            and self.numbers == other.numbers
            and self.initial == other.initial
        )

    __hash__ = None  # type: ignore[assignment]

    def replay(self, v: Variables, done: Done) -> bool:
        """All iterations; False if one has to walk the program."""
        values = self.compute(v)
        for at, number in enumerate(count() if self.numbers is None else self.numbers):
            if at >= self.limit:
                return False
            v[self.element], v[self.counter], v[self.carried] = number, at, values
            end = replay(self.root, v, done)
            if end is None:
                return False
            values = end.compute(v)
            if end.last:
                break
        v[self.to] = values
        return True


Step: TypeAlias = Tile | Color | Loop


def replay(node: Node, v: Variables, done: Done) -> End | None:
    """Runs an iteration; None if its course is not known. What it does is only noted in `done`."""
    while True:
        for step in node.steps:
            if not step.replay(v, done):
                return None
        if node.test is None:
            return node.end
        following = node.ways.get(node.test(v))
        if following is None:
            return None
        node = following


def commit(facts: LayoutFacts, done: Done) -> bool:
    """Does what was noted; False, and nothing is done, if something of it is an error."""
    for at, (step, place) in enumerate(done):
        if not step.commit(facts, place):
            for before, where in reversed(done[:at]):
                before.undo(facts, where)
            return False
    return True


def together(texts: Sequence[str]) -> Callable[[Variables], tuple[int, ...]]:
    """The values of several expressions."""
    return expression(f"({''.join(f'{one}, ' for one in texts)})")


class Mismatch(Exception):  # noqa: N818
    """An iteration did something else than one with the same outcomes of all tests, so its course cannot be recorded."""


class Recording:
    """An iteration that walks the program and is recorded."""

    __slots__ = ("_at", "_node", "alive", "born", "carried", "known", "loop")

    def __init__(self, loop: Loop, known: dict[str, Any], carried: frozenset[Any]) -> None:
        self.loop = loop
        self.alive = True
        self.known = known
        """The expressions whose values are certain along this path."""
        self.born: set[Any] = set()
        """The variables of CSL that were declared in this iteration."""
        self.carried = carried
        """Those from outside that it may change."""
        self._node = loop.root
        self._at = 0

    def add(self, step: Step) -> Step:
        """What happened; gives the step that the tree has for it. Raises Mismatch."""
        node = self._node
        if self._at < len(node.steps):
            found = node.steps[self._at]
            if found != step:
                raise Mismatch
        elif node.test is not None or node.end is not None:
            raise Mismatch
        else:
            node.steps.append(step)
            found = step
        self._at += 1
        return found

    def test(self, text: str, outcome: Any) -> None:
        """What an expression is in this iteration. Raises Mismatch."""
        node = self._node
        if self._at < len(node.steps) or node.end is not None:
            raise Mismatch
        if node.test is None:
            node.text, node.test = text, expression(text)
        elif node.text != text:
            raise Mismatch
        self._node = node.ways.setdefault(outcome, Node())
        self._at = 0
        self.known[text] = outcome

    def finish(self, last: bool, values: tuple[str, ...]) -> None:
        """The end of the iteration. Raises Mismatch."""
        node = self._node
        end = End(last, values, together(values))
        if self._at < len(node.steps) or node.test is not None or node.end not in (None, end):
            raise Mismatch
        node.end = end
