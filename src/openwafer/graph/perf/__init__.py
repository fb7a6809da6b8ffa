"""Predictions from a plan: the memory of each role, the time of a step."""

from openwafer.graph.perf._memory import Sizes, system_memory
from openwafer.graph.perf._roles import with_cache, with_memory
from openwafer.graph.perf._time import StepTime, predict_step

__all__ = ["Sizes", "StepTime", "predict_step", "system_memory", "with_cache", "with_memory"]
