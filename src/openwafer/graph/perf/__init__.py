"""Predictions from a plan: the memory of each role."""

from openwafer.graph.perf._memory import Sizes, system_memory
from openwafer.graph.perf._roles import with_cache, with_memory

__all__ = ["Sizes", "system_memory", "with_cache", "with_memory"]
