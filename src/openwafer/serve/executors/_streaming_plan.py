"""How a model that is larger than memory shares it: what stays, what is read again, and the cache."""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.base import PlanError, format_bytes
from openwafer.serve.executors._memory import PROCESS_BYTES, MemoryPlan, workspace_bytes
from openwafer.serve.executors._streaming import check_streamable
from openwafer.serve.executors._weight_ring import ring_bytes
from openwafer.serve.model import (
    BLOCK_TOKENS,
    ModelConfig,
    Precision,
    embedding_bytes,
    head_bytes,
    kv_block_bytes,
    layer_bytes,
)

SLOTS = 3
"""One layer computes, one is complete, one is being read."""

_LEAST_TOKENS = 2048
_MOST_CONTEXTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingPlan:
    """Memory by purpose, and how many layers stay; `memory.weight_bytes` counts those, both ends and the ring."""

    memory: MemoryPlan
    resident: int
    slots: int

    def __str__(self) -> str:
        return f"{self.resident} layers stay, the others pass through {self.slots} buffers; {self.memory}"


def streaming_plan(
    config: ModelConfig,
    precision: Precision,
    budget_bytes: int,
    blocks: int | None = None,
    process_bytes: int = PROCESS_BYTES,
) -> StreamingPlan:
    """Both ends, a ring of SLOTS layers, a cache, and as many layers as the rest holds.

    The cache has so many blocks; by default 2,048 tokens, and more in a quarter of what is left after that: a batch of more
    sequences moves no more bytes, and neither does a layer that stays.

    Raises InputError for int8, PlanError, which says what would fit, if not even no resident layer leaves room.
    """
    check_streamable(precision)
    block_bytes, layer = kv_block_bytes(config, precision), layer_bytes(config, precision)
    context_blocks = -(-config.context_tokens // BLOCK_TOKENS)
    least = blocks if blocks is not None else min(context_blocks, _LEAST_TOKENS // BLOCK_TOKENS)
    slots = min(SLOTS, config.layers)
    ends = embedding_bytes(config, precision) + head_bytes(config, precision)
    # Loading casts what stays in chunks, too, and has given them back before the ring takes its own.
    ring = ring_bytes(config, precision, slots)
    work = workspace_bytes(config, precision)
    left = budget_bytes - (process_bytes + ends + ring + work + least * block_bytes)
    if left < 0:
        raise PlanError(
            f"the model does not fit, even with all of its layers streamed: the embedding and the head as {precision} "
            f"take {format_bytes(ends)}, buffers for {slots} of {config.layers} layers {format_bytes(ring)}, a KV cache of "
            f"{least * BLOCK_TOKENS} tokens {format_bytes(least * block_bytes)}, batches {format_bytes(work)} and the "
            f"process {format_bytes(process_bytes)}, which make {format_bytes(budget_bytes - left)}, and there are "
            f"{format_bytes(max(budget_bytes, 0))}; give it that much memory"
            + (", or a cache of fewer blocks" if blocks is not None and blocks > 1 else "")
        )
    if blocks is None:
        most = max(least, _MOST_CONTEXTS * context_blocks)
        more = min(left // 4 // block_bytes, most - least)
        least, left = least + more, left - more * block_bytes
    resident = min(left // layer, config.layers)
    return StreamingPlan(
        memory=MemoryPlan(
            budget_bytes=budget_bytes,
            process_bytes=process_bytes,
            weight_bytes=ends + ring + resident * layer,
            workspace_bytes=work,
            block_bytes=block_bytes,
            blocks=least,
        ),
        resident=resident,
        slots=slots,
    )
