"""Programs of the vendor's training client, which come as CIRH (MLIR text), as steps for `graph` and `cluster`.

    parse       text -> Function: operations, types, constants, places; every error with line and column
    Program     Function -> what it reads, keeps and returns -> StepGraph -> Plan, the same as for a native model

What a value is to the batch (made per sample, summed over samples, shared) is found from the graph, so that a step can be
divided into microbatches and over systems although its shapes are those of the whole batch.
"""

from openwafer.compat.cirh._function import Function, Op, Place, Type
from openwafer.compat.cirh._lower import Lowering
from openwafer.compat.cirh._parser import parse
from openwafer.compat.cirh._program import Input, Output, Program, StateTensor
from openwafer.compat.cirh._rules import REFUSED, RULES
from openwafer.compat.cirh._states import SUM

__all__ = [
    "REFUSED",
    "RULES",
    "SUM",
    "Function",
    "Input",
    "Lowering",
    "Op",
    "Output",
    "Place",
    "Program",
    "StateTensor",
    "Type",
    "parse",
]
