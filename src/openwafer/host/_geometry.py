"""Places and rectangles, as host programs write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from openwafer.base import InputError


@dataclass(frozen=True, slots=True)
class IntVector:
    """A place, or a size: x to the east, y to the south."""

    x: int
    y: int


class IntRectangle:
    """Places from `origin` to before `end`.

    The documentation of SDK 2.10 calls the second argument the rectangle's size, and the public program sdklayout-05-gemv
    passes the corner behind the last place. Only the latter reading gives that program a meaning, so it is the one of the
    second argument here; `dims=` gives the size.
    """

    __slots__ = ("end", "origin")

    def __init__(
        self, origin: IntVector, end: IntVector | None = None, *, dims: IntVector | None = None
    ) -> None:
        if (end is None) == (dims is None):
            raise InputError("IntRectangle needs its first corner and either the corner behind it or dims=")
        self.origin = origin
        self.end = end if end is not None else IntVector(origin.x + dims.x, origin.y + dims.y)  # type: ignore[union-attr]
        if self.end.x < origin.x or self.end.y < origin.y:
            raise InputError(f"{self} ends before it begins; the second corner lies south-east of the first")

    @property
    def width(self) -> int:
        return self.end.x - self.origin.x

    @property
    def height(self) -> int:
        return self.end.y - self.origin.y

    def places(self) -> Iterator[IntVector]:
        """Every place of the rectangle, row by row."""
        for y in range(self.origin.y, self.end.y):
            for x in range(self.origin.x, self.end.x):
                yield IntVector(x, y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntRectangle) and (self.origin, self.end) == (other.origin, other.end)

    def __hash__(self) -> int:
        return hash((self.origin, self.end))

    def __repr__(self) -> str:
        return f"IntRectangle(({self.origin.x}, {self.origin.y}), ({self.end.x}, {self.end.y}))"
