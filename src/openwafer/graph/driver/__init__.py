"""From a captured model and the user's options to a Plan."""

from openwafer.graph.driver._plan import CaptureStep, PlanOptions, plan_job

__all__ = ["CaptureStep", "PlanOptions", "plan_job"]
