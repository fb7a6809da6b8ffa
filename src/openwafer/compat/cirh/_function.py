"""A CIRH function as plain data: values, operations, types, attributes, places in the client's source.

Nothing here knows what an operation means; `_parser` makes these from text, `_lower` gives them meaning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

ELEMENT_BYTES = {
    "f64": 8,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "!cs.cb16": 2,
    "i64": 8,
    "i32": 4,
    "i16": 2,
    "i8": 1,
    "i1": 1,
}
"""Element types that a tensor may have, with their size in a constant's hexadecimal form."""


@dataclass(frozen=True, slots=True)
class Type:
    """`tensor<4x8xf32>`: element type as MLIR spells it, and static shape."""

    element: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return "tensor<" + "".join(f"{size}x" for size in self.shape) + self.element + ">"


@dataclass(frozen=True, slots=True)
class Dense:
    """`dense<...> : tensor<...>`: `body` is the text between the angle brackets, decoded by `_dense` when asked."""

    body: str
    type: Type


Attribute: TypeAlias = "bool | int | float | str | Type | Dense | list[Attribute] | dict[str, Attribute]"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operation comes from: `scope` is the module path that the client gave, `file` its Python line."""

    scope: str = ""
    file: str = ""

    def __str__(self) -> str:
        return " at ".join(part for part in (self.scope, self.file) if part)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. Operands and results are indices into `Function.values`."""

    name: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    attributes: dict[str, Attribute]
    line: int
    place: str
    """Text of its location: an alias (`#loc12`) or the location itself; `Function.place_of` reads it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of the function."""

    value: int
    attributes: dict[str, Attribute]
    place: str


@dataclass(frozen=True, slots=True)
class Result:
    """One result of the function: the value returned there, and what it is called."""

    value: int
    attributes: dict[str, Attribute]


@dataclass(slots=True)
class Function:
    """One function: straight-line operations in order of definition, each value typed and defined once."""

    text_name: str
    """The name of the text that it was read from, for messages."""
    name: str
    attributes: dict[str, Attribute]
    arguments: list[Argument] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    values: list[Type] = field(default_factory=list)
    """By index: the type of each value."""
    locations: dict[str, str] = field(default_factory=dict)
    """Aliases -> text of the location."""

    def place_of(self, op: Op) -> Place:
        """Module scope and source line of an operation, as far as its location tells."""
        from openwafer.compat.cirh._places import read_place

        return read_place(op.place, self.locations)

    def where(self, op: Op) -> str:
        """`name:line: ` and the place, to begin a message about an operation."""
        place = str(self.place_of(op))
        return f"{self.text_name}:{op.line}: cirh.{op.name}" + (f" ({place})" if place else "")
