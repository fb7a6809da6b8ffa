"""Fused attention off the CPU: bodies name the CPU's operator, and a device has its own.

Fused attention is the one operator in traced steps that has a kernel for the CPU alone. On a GPU its forward and backward
run as flash attention where that takes the operands, as memory-efficient attention where that does, and else here, in
chunks of queries, with plain products. All of them recompute the probabilities in backward from the log of their sum,
as the CPU's does. Each adds in its own order, so that results differ in the last bits.

Sources: Dao, FlashAttention-2 (2023); Rabe and Staats, Self-attention Does Not Need O(n^2) Memory (2021).
Legend: B samples, H heads, K heads of keys and values (H is a multiple), L queries, S keys, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from openwafer.base import MIB, round_up

aten = torch.ops.aten

CHUNK_BYTES = 64 * MIB
"""float32 scores made at once."""
BIAS_ALIGN = 16
"""Elements to which the memory-efficient kernel wants the rows of a mask aligned."""
FLASH_WIDTH, FLASH_MOST = 8, 128
"""Flash attention takes heads whose width is a multiple of this; wider heads have no backward on some GPUs."""


def attention(
    query_BHLE: Tensor,
    key_BKSE: Tensor,
    value_BKSE: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """What `aten._scaled_dot_product_flash_attention_for_cpu` computes, on the device of its operands.

    dropout_p is 0: the CPU's operator takes no other. attn_mask: added to the scores, broadcast to [B, H, L, S]. is_causal:
    query i sees keys 0..i. Returns [B, H, L, E] and the logarithm of the sums, float32, which only `attention_backward` on
    the same device may read: kernels pad it as they like.
    """
    chosen = _kernel(query_BHLE, key_BKSE, value_BKSE, attn_mask, is_causal)
    operands = (query_BHLE, key_BKSE, value_BKSE)
    found: Any
    if chosen == "flash":
        found = aten._scaled_dot_product_flash_attention.default(*operands, 0.0, is_causal, scale=scale)
        return found[0], found[1]
    if chosen == "efficient":
        bias = _bias(attn_mask, query_BHLE, key_BKSE)
        found = aten._scaled_dot_product_efficient_attention.default(
            *operands, bias, True, 0.0, is_causal, scale=scale
        )
        return found[0], found[1]
    return in_chunks(*operands, is_causal, attn_mask, scale)


def attention_backward(
    gradient_BHLE: Tensor,
    query_BHLE: Tensor,
    key_BKSE: Tensor,
    value_BKSE: Tensor,
    out_BHLE: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; `out_BHLE` and `logsumexp` are what `attention` returned for these operands."""
    chosen = _kernel(query_BHLE, key_BKSE, value_BKSE, attn_mask, is_causal)
    operands = (gradient_BHLE, query_BHLE, key_BKSE, value_BKSE)
    # Without dropout the kernels draw nothing: what they are given as the generator's state is not read.
    undrawn = torch.empty(2, dtype=torch.int64, device=query_BHLE.device)
    found: Any
    if chosen == "flash":
        found = aten._scaled_dot_product_flash_attention_backward.default(
            *operands, out_BHLE, logsumexp, None, None, query_BHLE.shape[2], key_BKSE.shape[2], 0.0, is_causal,
            undrawn.view(torch.uint64), undrawn.view(torch.uint64), scale=scale,
        )  # fmt: skip
        return found[0], found[1], found[2]
    if chosen == "efficient":
        bias = _bias(attn_mask, query_BHLE, key_BKSE)
        found = aten._scaled_dot_product_efficient_attention_backward.default(
            *operands, bias, out_BHLE, logsumexp, undrawn[0], undrawn[1], 0.0, [True, True, True, False], is_causal,
            scale=scale,
        )  # fmt: skip
        return found[0], found[1], found[2]
    return in_chunks_backward(*operands, out_BHLE, logsumexp, is_causal, attn_mask, scale)


def in_chunks(
    query_BHLE: Tensor,
    key_BKSE: Tensor,
    value_BKSE: Tensor,
    is_causal: bool,
    mask: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Attention and its [B, H, L] logarithms, in float32, never all scores at once. A query that sees no key gets zeros."""
    value_BHSE = _per_query_head(value_BKSE, query_BHLE).float()
    out_BHLE = torch.empty_like(query_BHLE)
    sums_BHL = torch.empty(query_BHLE.shape[:3], dtype=torch.float32, device=query_BHLE.device)
    for part, scores in _scores(query_BHLE, key_BKSE, is_causal, mask, scale):
        sums_BHL[:, :, part] = scores.logsumexp(-1)
        out_BHLE[:, :, part] = (_probabilities(scores, sums_BHL[:, :, part]) @ value_BHSE).to(out_BHLE.dtype)
    return out_BHLE, sums_BHL


def in_chunks_backward(
    gradient_BHLE: Tensor,
    query_BHLE: Tensor,
    key_BKSE: Tensor,
    value_BKSE: Tensor,
    out_BHLE: Tensor,
    sums_BHL: Tensor,
    is_causal: bool,
    mask: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; see `in_chunks`."""
    factor = query_BHLE.shape[-1] ** -0.5 if scale is None else scale
    key_BHSE = _per_query_head(key_BKSE, query_BHLE).float()
    value_BHSE = _per_query_head(value_BKSE, query_BHLE).float()
    query_gradient = torch.empty_like(query_BHLE)
    key_gradient, value_gradient = torch.zeros_like(key_BHSE), torch.zeros_like(value_BHSE)
    for part, scores in _scores(query_BHLE, key_BKSE, is_causal, mask, scale):
        probabilities = _probabilities(scores, sums_BHL[:, :, part])
        gradient = gradient_BHLE[:, :, part].float()
        value_gradient += probabilities.mT @ gradient
        # softmax: dS = P * (dP - sum(dP * P)), and that sum is the one of gradient * out
        along = (gradient * out_BHLE[:, :, part].float()).sum(-1, keepdim=True)
        scores_gradient = probabilities * (gradient @ value_BHSE.mT - along) * factor
        query_gradient[:, :, part] = (scores_gradient @ key_BHSE).to(query_gradient.dtype)
        key_gradient += scores_gradient.mT @ query_BHLE[:, :, part].float()
    return query_gradient, _per_key_head(key_gradient, key_BKSE), _per_key_head(value_gradient, value_BKSE)


def _scores(
    query_BHLE: Tensor, key_BKSE: Tensor, is_causal: bool, mask: Tensor | None, scale: float | None
) -> Iterator[tuple[slice, Tensor]]:
    """(queries, float32 scores of those queries [B, H, chunk, S]), the mask applied."""
    samples, heads, queries, width = query_BHLE.shape
    keys = key_BKSE.shape[2]
    key_BHSE = _per_query_head(key_BKSE, query_BHLE).float()
    factor = width**-0.5 if scale is None else scale
    rows = max(1, CHUNK_BYTES // (4 * samples * heads * keys))
    positions = torch.arange(max(queries, keys), device=query_BHLE.device)
    for start in range(0, queries, rows):
        part = slice(start, min(start + rows, queries))
        scores = query_BHLE[:, :, part].float() @ key_BHSE.mT * factor
        if mask is not None:
            scores += mask[..., part, :] if mask.shape[-2] > 1 else mask
        if is_causal:
            scores.masked_fill_(positions[:keys] > positions[part, None], float("-inf"))
        yield part, scores


def _probabilities(scores: Tensor, sums_BHL: Tensor) -> Tensor:
    """softmax from the known sums; zero where a query sees nothing (its sum is exp(-inf))."""
    return (scores - sums_BHL.clamp_min(torch.finfo(torch.float32).min)[..., None]).exp()


def _per_query_head(x_BKSE: Tensor, query_BHLE: Tensor) -> Tensor:
    return x_BKSE.repeat_interleave(query_BHLE.shape[1] // x_BKSE.shape[1], dim=1)


def _per_key_head(gradient_BHSE: Tensor, like_BKSE: Tensor) -> Tensor:
    samples, heads, keys, width = like_BKSE.shape
    return gradient_BHSE.reshape(samples, heads, -1, keys, width).sum(2).to(like_BKSE.dtype)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool
) -> Literal["flash", "efficient", "chunks"]:
    """The fastest that takes the operands; backward asks with those of the forward and gets the same answer."""
    if query.device.type != "cuda":
        return "chunks"
    grouped = query.shape[1] != key.shape[1]
    asked = torch.backends.cuda.SDPAParams(query, key, value, mask, 0.0, is_causal, grouped)
    width = query.shape[-1]
    fits = width % FLASH_WIDTH == 0 and width <= FLASH_MOST and width == value.shape[-1]
    if mask is None and fits and torch.backends.cuda.can_use_flash_attention(asked):
        return "flash"
    if not grouped and torch.backends.cuda.can_use_efficient_attention(asked):
        return "efficient"
    return "chunks"


def _bias(mask: Tensor | None, query_BHLE: Tensor, key_BKSE: Tensor) -> Tensor | None:
    """The mask as the memory-efficient kernel takes it: whole, in the dtype of the queries, its rows aligned."""
    if mask is None:
        return None
    keys = key_BKSE.shape[2]
    rows = mask.new_zeros((*mask.shape[:-1], round_up(keys, BIAS_ALIGN)), dtype=query_BHLE.dtype)
    rows[..., :keys] = mask
    return rows[..., :keys].expand(*query_BHLE.shape[:3], keys)


OPERATORS: dict[str, Callable[..., Any]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu.default": attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward.default": attention_backward,
}
"""What runs instead of operators that exist on the CPU alone."""
