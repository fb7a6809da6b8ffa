"""Predictions from a plan: the memory of each role."""

from openwafer.graph.perf._memory import Sizes, system_memory

__all__ = ["Sizes", "system_memory"]
