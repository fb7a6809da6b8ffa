"""What runs next and which token comes out: requests in, pieces of answers out.

An `Engine` has a thread in which a `Scheduler` plans batches of `Sequence`s over the blocks of a `BlockManager`, an executor
runs them, and a `ModelRunner` chooses tokens. `submit` gives an `Answer`, whose pieces come as they are made.
"""

from openwafer.serve.engine._answer import Answer
from openwafer.serve.engine._blocks import BlockManager
from openwafer.serve.engine._engine import Engine
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._request import (
    FinishReason,
    Grammar,
    Piece,
    Request,
    Sampling,
    Tier,
    Times,
    TokenProbability,
    Usage,
)
from openwafer.serve.engine._runner import Flight, ModelRunner
from openwafer.serve.engine._scheduler import Scheduler, Work
from openwafer.serve.engine._sequence import Group, Sequence
from openwafer.serve.engine._statistics import Statistics

__all__ = [
    "Answer",
    "BlockManager",
    "Engine",
    "FinishReason",
    "Flight",
    "Grammar",
    "Group",
    "Limits",
    "ModelRunner",
    "Piece",
    "Request",
    "Sampling",
    "Scheduler",
    "Sequence",
    "Statistics",
    "Tier",
    "Times",
    "TokenProbability",
    "Usage",
    "Work",
]
