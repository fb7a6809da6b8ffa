"""What runs the model, behind one interface: batches of tokens in, logits out, in order.

`open_executor` loads a folder: `ResidentExecutor` computes in this process, `PipelinedExecutor` in one process for each
range of layers, `StreamingExecutor` reads layers from their files for every batch. `resident_plan` and `streaming_plan` say
beforehand what takes how much memory.
"""

from openwafer.serve.executors._base import Batch, Executor
from openwafer.serve.executors._cache import make_cache
from openwafer.serve.executors._memory import (
    BATCH_TOKENS,
    PROCESS_BYTES,
    MemoryPlan,
    memory_budget,
    resident_plan,
    workspace_bytes,
)
from openwafer.serve.executors._open import EXECUTIONS, choose_device, open_executor
from openwafer.serve.executors._pipelined import PipelinedExecutor
from openwafer.serve.executors._resident import ResidentExecutor
from openwafer.serve.executors._stages import split_layers
from openwafer.serve.executors._streaming import StreamingExecutor
from openwafer.serve.executors._streaming_plan import StreamingPlan, streaming_plan
from openwafer.serve.model import BLOCK_TOKENS

__all__ = [
    "BATCH_TOKENS",
    "BLOCK_TOKENS",
    "EXECUTIONS",
    "PROCESS_BYTES",
    "Batch",
    "Executor",
    "MemoryPlan",
    "PipelinedExecutor",
    "ResidentExecutor",
    "StreamingExecutor",
    "StreamingPlan",
    "choose_device",
    "make_cache",
    "memory_budget",
    "open_executor",
    "resident_plan",
    "split_layers",
    "streaming_plan",
    "workspace_bytes",
]
