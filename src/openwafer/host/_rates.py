"""How fast memcpy moves words: not simulated column by column, but charged by these rates.

The words themselves are written and read in one piece; the clock goes on by what the copy would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class MemcpyRates:
    """Words per cycle and channel, and the cycles until a command reaches the PEs."""

    h2d_words_per_cycle: float = 0.5  # assumed: a word of data and one of address share the channel
    d2h_words_per_cycle: float = (
        0.298  # measured by third parties: SUMMA on the simulator, D2H with one channel
    )
    command_cycles: int = 100  # assumed

    def h2d(self, words: int, channels: int) -> int:
        """Cycles of a copy to the wafer."""
        return self.command_cycles + ceil(words / (self.h2d_words_per_cycle * channels))

    def d2h(self, words: int, channels: int) -> int:
        """Cycles of a copy from the wafer."""
        return self.command_cycles + ceil(words / (self.d2h_words_per_cycle * channels))


FREE = MemcpyRates(float("inf"), float("inf"), 0)
"""Nothing is charged: for functional runs."""
