"""Capture a PyTorch step as data, find its layers, place them, predict, and make the Plan."""

from openwafer.graph.driver import PlanOptions, plan_job
from openwafer.graph.ir import StepGraph
from openwafer.graph.passes import Precision, Shards, StepFunction, UpdateRule, capture, gradient_name
from openwafer.graph.perf import StepTime, hide_disk, predict_step

__all__ = [
    "PlanOptions",
    "Precision",
    "Shards",
    "StepFunction",
    "StepGraph",
    "StepTime",
    "UpdateRule",
    "capture",
    "gradient_name",
    "hide_disk",
    "plan_job",
    "predict_step",
]
