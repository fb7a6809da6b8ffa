"""From a module to layers: capture, clean, find layers, cut backward and update, extract bodies."""

from openwafer.graph.passes._assemble import Assembled, assemble
from openwafer.graph.passes._bodies import BodyTable
from openwafer.graph.passes._capture import Precision, StepFunction, UpdateRule, capture
from openwafer.graph.passes._update import gradient_name

__all__ = [
    "Assembled",
    "BodyTable",
    "Precision",
    "StepFunction",
    "UpdateRule",
    "assemble",
    "capture",
    "gradient_name",
]
