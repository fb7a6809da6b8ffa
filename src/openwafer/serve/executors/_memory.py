"""What a model takes of the memory that it may have, and what would fit if it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from openwafer.base import GIB, MIB, PlanError, format_bytes
from openwafer.serve.model import (
    BLOCK_TOKENS,
    ModelConfig,
    Precision,
    kv_block_bytes,
    model_bytes,
)
from openwafer.wire import available_memory_bytes

PROCESS_BYTES = 512 * MIB
"""Python, torch, the tokenizer and the HTTP server, with what they allocate under load; assumed, with a third to spare."""

BATCH_TOKENS = 1024
"""Tokens of the largest batch that the plan leaves room for."""

_LEAST_TOKENS = 2048
_MOST_CONTEXTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose, all of them on the device that computes."""

    budget_bytes: int
    """What may be taken in all."""
    process_bytes: int
    weight_bytes: int
    workspace_bytes: int
    """Hidden states and logits of one batch."""
    block_bytes: int
    """One block of the KV cache, over all layers."""
    blocks: int

    @property
    def cache_bytes(self) -> int:
        """The whole KV cache."""
        return self.blocks * self.block_bytes

    @property
    def total_bytes(self) -> int:
        """Everything."""
        return self.process_bytes + self.weight_bytes + self.workspace_bytes + self.cache_bytes

    def __str__(self) -> str:
        return (
            f"weights {format_bytes(self.weight_bytes)}, KV cache {format_bytes(self.cache_bytes)} "
            f"({self.blocks * BLOCK_TOKENS} tokens), batches {format_bytes(self.workspace_bytes)}, process "
            f"{format_bytes(self.process_bytes)}: {format_bytes(self.total_bytes)} of {format_bytes(self.budget_bytes)}"
        )


def memory_budget(device: torch.device, memory_bytes: int | None) -> int:
    """What a model may take: what the user said, else what is free less a reserve for everything else on the machine.

    Raises PlanError where the system does not say what is free.
    """
    if memory_bytes is not None:
        return memory_bytes
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return int(free - max(512 * MIB, free // 20))
    available = available_memory_bytes()
    if available is None:
        raise PlanError("this system does not say how much memory is free; say how much the model may take")
    return available - max(GIB // 2, available // 10)


def resident_plan(
    config: ModelConfig,
    precision: Precision,
    budget_bytes: int,
    blocks: int | None = None,
    process_bytes: int = PROCESS_BYTES,
) -> MemoryPlan:
    """All weights, and a KV cache in what they leave; or one of so many blocks, if they are given.

    Raises PlanError, which says what would fit, if that is too much, or if the cache could not even hold 2,048 tokens.
    """
    block_bytes = kv_block_bytes(config, precision)
    context_blocks = -(-config.context_tokens // BLOCK_TOKENS)
    least = blocks if blocks is not None else min(context_blocks, _LEAST_TOKENS // BLOCK_TOKENS)
    plan = MemoryPlan(
        budget_bytes=budget_bytes,
        process_bytes=process_bytes,
        weight_bytes=model_bytes(config, precision),
        workspace_bytes=workspace_bytes(config, precision),
        block_bytes=block_bytes,
        blocks=least,
    )
    if plan.total_bytes > budget_bytes:
        raise PlanError(_refusal(config, precision, plan, chosen=blocks is not None))
    if blocks is not None:
        return plan
    more = (budget_bytes - plan.total_bytes) // block_bytes
    return replace(plan, blocks=min(least + more, max(least, _MOST_CONTEXTS * context_blocks)))


def workspace_bytes(config: ModelConfig, precision: Precision, tokens: int = BATCH_TOKENS) -> int:
    """Hidden states of a batch while one layer works on it, and the logits of a quarter of its tokens, in float32."""
    widest = max(3 * config.intermediate, 2 * (config.heads + 2 * config.heads_kv) * config.head_dim)
    hidden = tokens * (widest + 4 * config.hidden) * max(precision.compute.itemsize, 4)
    return hidden + tokens // 4 * config.vocabulary * (4 + precision.compute.itemsize)


def _refusal(config: ModelConfig, precision: Precision, plan: MemoryPlan, chosen: bool) -> str:
    fits = []
    if precision.quantise == "none":
        smaller = replace(
            plan,
            weight_bytes=model_bytes(config, Precision(precision.compute, "int8")),
        )
        if smaller.total_bytes <= plan.budget_bytes:
            fits.append(f"int8 weights ({format_bytes(smaller.total_bytes)} in all)")
        half = Precision(torch.bfloat16)
        halved = replace(
            plan, weight_bytes=model_bytes(config, half), block_bytes=kv_block_bytes(config, half)
        )
        if precision.compute.itemsize > 2 and halved.total_bytes <= plan.budget_bytes:
            fits.append(f"bfloat16 ({format_bytes(halved.total_bytes)} in all)")
    left = plan.budget_bytes - (plan.total_bytes - plan.cache_bytes)
    if chosen and left >= plan.block_bytes:
        fits.append(f"a KV cache of {left // plan.block_bytes} blocks")
    fits.append("weight streaming, which keeps part of the layers on the disk")
    fits.append(f"{format_bytes(plan.total_bytes)} of memory")
    return (
        f"the model as {precision} does not fit: weights {format_bytes(plan.weight_bytes)}, a KV cache of "
        f"{plan.blocks * BLOCK_TOKENS} tokens {format_bytes(plan.cache_bytes)}, batches "
        f"{format_bytes(plan.workspace_bytes)} and the process {format_bytes(plan.process_bytes)} make "
        f"{format_bytes(plan.total_bytes)}, and there are {format_bytes(max(plan.budget_bytes, 0))}; what would fit: "
        f"{', or '.join(fits)}"
    )
