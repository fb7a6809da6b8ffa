"""Predictions from a plan: the memory of each role, the time of a step."""

from openwafer.graph.perf._cache import hide_disk, with_cache
from openwafer.graph.perf._memory import Sizes, system_memory
from openwafer.graph.perf._roles import with_memory
from openwafer.graph.perf._time import StepTime, predict_step

__all__ = ["Sizes", "StepTime", "hide_disk", "predict_step", "system_memory", "with_cache", "with_memory"]
