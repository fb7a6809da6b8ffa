"""The paged KV cache of one layer."""

from __future__ import annotations

import torch

from openwafer.serve.model import BLOCK_TOKENS, ModelConfig, Precision, new_tensor


def make_cache(
    config: ModelConfig, precision: Precision, blocks: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer, each [blocks, heads_kv, BLOCK_TOKENS, head_dim] of zeros.

    Zeros and not whatever memory holds: what attention masks is still multiplied by 0, and a NaN would survive that. The
    system hands out pages when they are first written, so on the CPU blocks that are never used take none.
    """
    shape = (blocks, config.heads_kv, BLOCK_TOKENS, config.head_dim)
    return new_tensor(shape, precision.compute, device), new_tensor(shape, precision.compute, device)
