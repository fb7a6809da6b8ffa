"""From a module to layers: capture, clean, find layers, cut backward and update, extract bodies."""

from openwafer.graph.passes._assemble import Assembled, assemble
from openwafer.graph.passes._bodies import BodyTable
from openwafer.graph.passes._capture import Precision, Shards, StepFunction, UpdateRule, capture
from openwafer.graph.passes._clean import CONSTANT, PACKED, ROUND, SEEDED, WaferOp
from openwafer.graph.passes._layers import ancestors
from openwafer.graph.passes._shard_choice import Choice, choose_shards, is_worth_a_look
from openwafer.graph.passes._shards import CannotShardError
from openwafer.graph.passes._update import gradient_name

__all__ = [
    "CONSTANT",
    "PACKED",
    "ROUND",
    "SEEDED",
    "Assembled",
    "BodyTable",
    "CannotShardError",
    "Choice",
    "Precision",
    "Shards",
    "StepFunction",
    "UpdateRule",
    "WaferOp",
    "ancestors",
    "assemble",
    "capture",
    "choose_shards",
    "gradient_name",
    "is_worth_a_look",
]
