"""Which system runs which layers of which samples, and in what order."""

from openwafer.graph.place._memoryx import deal_records
from openwafer.graph.place._schedules import bubble, pipelined, weight_streaming
from openwafer.graph.place._stages import split_microbatches, split_rows, split_stages

__all__ = [
    "bubble",
    "deal_records",
    "pipelined",
    "split_microbatches",
    "split_rows",
    "split_stages",
    "weight_streaming",
]
