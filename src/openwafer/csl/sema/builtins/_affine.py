"""Tensor access expressions: from indices in a tensor to the steps of a memory DSD.

The documentation ("Data Structure Descriptors", tensor_access) counts the stride of a dimension from the last element of the
dimensions within it: that is how the registers step. A descriptor of the PE ABI keeps the plain distance instead; the two
say the same as long as the extents are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Affine:
    """`offset + sum(steps[name] * name)` over the indices of a tensor access, in elements."""

    offset: int = 0
    steps: tuple[tuple[str, int], ...] = ()

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        """`self + factor * other`."""
        steps = dict(self.steps)
        for name, step in other.steps:
            steps[name] = steps.get(name, 0) + factor * step
        return Affine(self.offset + factor * other.offset, tuple((n, s) for n, s in steps.items() if s))

    def times(self, factor: int) -> Affine:
        """`factor * self`."""
        return Affine().plus(self, factor)

    def step(self, name: str) -> int:
        """How far one more of `name` goes."""
        return dict(self.steps).get(name, 0)

    def ends(self, extents: dict[str, int]) -> tuple[int, int]:
        """The least and the greatest value, with each index in 0 up to its extent."""
        low = high = self.offset
        for name, step in self.steps:
            reach = step * (extents[name] - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high


def flatten(indices: Sequence[Affine], shape: Sequence[int]) -> Affine:
    """The place in memory, in elements, of an element of a row-major tensor."""
    place = Affine()
    for index, extent in zip(indices, shape, strict=True):
        place = place.times(extent).plus(index)
    return place


def documented_strides(steps: Sequence[int], extents: Sequence[int]) -> list[int]:
    """Plain steps, outermost first, as the `stride` tuple of the documentation, innermost first."""
    strides, within = [], 0
    for step, extent in zip(reversed(steps), reversed(extents), strict=True):
        strides.append(step - within)
        within += (extent - 1) * step
    return strides


def plain_steps(strides: Sequence[int], extents: Sequence[int]) -> list[int]:
    """The inverse of `documented_strides`: `strides` innermost first, `extents` and the result outermost first."""
    steps: list[int] = []
    within = 0
    for stride, extent in zip(strides, reversed(extents), strict=True):
        step = stride + within
        steps.insert(0, step)
        within += (extent - 1) * step
    return steps
