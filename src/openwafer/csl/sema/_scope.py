"""Where code stands while the engine walks it: names, the function, what `break` and `return` lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema._builder import Builder
from openwafer.csl.sema._module import ModuleInstance
from openwafer.csl.sema._types import VOID, Type
from openwafer.csl.sema._values import CellPlace, LocalPlace, Value, ValuePlace


@dataclass(frozen=True, slots=True)
class StackVariable:
    """A variable in the function's frame: its address is made anew where it is used."""

    local: str
    type: Type
    const: bool
    name: str


@dataclass(frozen=True, slots=True)
class AddressVariable:
    """A parameter whose memory belongs to the caller: a local holds its address."""

    local: str
    type: Type
    name: str


Binding: TypeAlias = Value | CellPlace | LocalPlace | ValuePlace | StackVariable | AddressVariable


class Scope:
    """The names of a block, and those around it."""

    __slots__ = ("names", "parent")

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.names: dict[str, Binding] = {}

    def find(self, name: str) -> Binding | None:
        """What a name stands for in this block or around it, None if it is not local."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None


@dataclass(slots=True)
class Arrival:
    """A way to the end of something that has a value: the block where it begins, and the value."""

    block: ir.Block | None
    value: Value
    span: Span


@dataclass(slots=True, eq=False)
class Target:
    """A labelled block, a loop, or the body of an inlined function: where `break`, `continue` and `return` lead."""

    label: str | None
    loop: bool
    comptime: bool
    expected: Type | None = None
    breaks: list[Arrival] = field(default_factory=list)
    continues: list[Arrival] = field(default_factory=list)


class Frame:
    """One function, or one initialiser, on its way."""

    __slots__ = (
        "builder",
        "comptime",
        "control",
        "module",
        "name",
        "result",
        "returns",
        "scope",
        "taken",
        "targets",
    )

    def __init__(
        self,
        module: ModuleInstance,
        *,
        scope: Scope | None = None,
        builder: Builder | None = None,
        result: Type | None = None,
        taken: frozenset[str] = frozenset(),
        name: str = "",
    ) -> None:
        self.module = module
        self.scope = scope or Scope()
        self.builder = builder
        self.comptime = builder is None
        """What is executed is executed by the compiler."""
        self.result = result
        """What `return` converts to; None outside of functions."""
        self.returns: Target | None = None
        """Of an inlined function."""
        self.taken = taken
        """Names of which the function takes the address."""
        self.targets: list[Target] = []
        self.control: object = None
        """Stands for the innermost branch or loop of running code."""
        self.name = name


POISON: Final = Value(VOID, "poison")
"""Stands for a variable whose declaration has an error; whoever looks at it gives up silently."""


class Breaking(Exception):  # noqa: N818
    """`break` at comptime."""

    def __init__(self, target: Target, value: Value) -> None:
        self.target = target
        self.value = value


class Continuing(Exception):  # noqa: N818
    """`continue` at comptime."""

    def __init__(self, target: Target) -> None:
        self.target = target


class Returning(Exception):  # noqa: N818
    """`return` at comptime."""

    def __init__(self, value: Value) -> None:
        self.value = value


class Failure(Exception):  # noqa: N818
    """The statement has an error, which was recorded."""


class Unmet(Failure):
    """A claim of the program about itself does not hold: what is wrong behind it may only follow from that."""
