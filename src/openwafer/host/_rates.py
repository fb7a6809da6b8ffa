"""How fast memcpy moves words: not simulated column by column, but charged by the timing table's `memcpy` entries.

The words themselves are written and read in one piece; the clock goes on by what the copy would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from openwafer.artifact._image import Image

if TYPE_CHECKING:
    from openwafer.fabric import Profile


@dataclass(frozen=True, slots=True)
class MemcpyRates:
    """Cycles until a command reaches the PEs, and cycles per word on each way."""

    command_cycles: int
    h2d_word_cycles: float
    d2h_word_cycles: float

    @classmethod
    def of(cls, image: Image, profile: Profile) -> MemcpyRates:
        """Those of a program's architecture; its channels share the words.

        Raises InputError if there is no such profile.
        """
        from openwafer.fabric import load_timing  # with the machine, which who only compiles does not load

        table = load_timing(image.architecture, profile)
        return cls(
            ceil(table["memcpy.command_cycles"]),
            table["memcpy.h2d_word_cycles"] / image.channels,
            table["memcpy.d2h_word_cycles"] / image.channels,
        )

    def h2d(self, words: int) -> int:
        """Cycles of a copy to the wafer."""
        return self.command_cycles + ceil(words * self.h2d_word_cycles)

    def d2h(self, words: int) -> int:
        """Cycles of a copy from the wafer."""
        return self.command_cycles + ceil(words * self.d2h_word_cycles)
