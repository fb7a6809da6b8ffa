"""Embedding and cross entropy over one row shard of a vocabulary at a time; each call carries the ones before it on.

Legend: N rows, D width, V words of this shard, C rows of a chunk. `start` is the shard's first word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from openwafer.base import InputError

aten = torch.ops.aten

NONE, MEAN = 0, 1


def embedding_rows(
    before: Tensor | None, weight_VD: Tensor, ids: Tensor, start: int, vocabulary: int
) -> Tensor:
    """`before` with those rows filled that this shard has; after the last shard bitwise the whole embedding.

    ids: int [...], words of the whole vocabulary. before: [..., D]; None for the first shard, which leaves zeros.
    Raises InputError for an id outside 0 .. vocabulary - 1 (on the CPU; on a GPU the device's own assertion fails).
    """
    local = ids - start
    inside = (local >= 0) & (local < weight_VD.shape[0])
    found = aten.embedding(weight_VD, local.clamp(0, weight_VD.shape[0] - 1))
    if before is None:
        _check_words(ids, (ids >= 0) & (ids < vocabulary), vocabulary, "a token id")
        return found.masked_fill_(~inside.unsqueeze(-1), 0)  # type: ignore[no-any-return]
    return torch.where(inside.unsqueeze(-1), found, before)


def embedding_rows_backward(
    gradient: Tensor, ids: Tensor, start: int, rows: int, padding: int, by_frequency: bool
) -> Tensor:
    """[rows, D]: bitwise the rows of the whole embedding's gradient that belong to this shard."""
    local = ids - start
    elsewhere = (local < 0) | (local >= rows) | (ids == padding)
    # One row too many takes what is another shard's; as a padding row it is skipped.
    made = aten.embedding_dense_backward(
        gradient, local.masked_fill(elsewhere, rows), rows + 1, rows, by_frequency
    )
    return made[:rows]  # type: ignore[no-any-return]


def shard_loss(
    before: Tensor | None,
    h_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    start: int,
    vocabulary: int,
    ignored: int,
    rows: int,
    dtype: torch.dtype,
) -> Tensor:
    """[3, N] over the words so far: largest logit m, sum of exp(logit - m), the target's logit (NaN until it came).

    Raises InputError for a target outside the vocabulary that is not `ignored` (on a GPU the device's assertion fails).
    """
    if before is None:
        known = ((target_N >= 0) & (target_N < vocabulary)) | (target_N == ignored)
        _check_words(target_N, known, vocabulary, "a label")
    sums = torch.empty((3, h_ND.shape[0]), dtype=dtype, device=h_ND.device)
    for first in range(0, h_ND.shape[0], rows):
        part = slice(first, first + rows)
        logits_CV = torch.nn.functional.linear(h_ND[part], weight_VD, bias_V).to(dtype)
        inside_C, local_C = _local(target_N[part], start, weight_VD.shape[0])
        most_C = logits_CV.amax(1)
        picked_C = torch.where(inside_C, logits_CV.gather(1, local_C)[:, 0], math.nan)
        if before is not None:
            most_C = torch.maximum(most_C, before[0, part])
            picked_C = torch.where(inside_C, picked_C, before[2, part])
        base_C = most_C.masked_fill(most_C == -math.inf, 0)  # all words so far may be masked out
        total_C = logits_CV.sub_(base_C[:, None]).exp_().sum(1)
        if before is not None:
            total_C += before[1, part] * (before[0, part] - base_C).exp_()
        sums[0, part], sums[1, part], sums[2, part] = most_C, total_C, picked_C
    return sums


def shard_loss_end(sums: Tensor, target_N: Tensor, reduction: int, ignored: int) -> tuple[Tensor, Tensor]:
    """The cross entropy from the sums over all shards, and the number of targets that count.

    reduction: 0 none, 1 mean, 2 sum, as ATen counts them.
    """
    counts_N = target_N != ignored
    losses_N = torch.where(counts_N, sums[1].log() + sums[0] - sums[2], 0)
    count = counts_N.sum().to(sums.dtype)
    if reduction == NONE:
        return losses_N, count
    return (losses_N.sum() / count if reduction == MEAN else losses_N.sum()), count


def shard_loss_gradient(
    gradient: Tensor, sums: Tensor, target_N: Tensor, count: Tensor, reduction: int, ignored: int
) -> tuple[Tensor, Tensor]:
    """Of each row: the gradient of its own loss (0 if its target is ignored), and the log of its sum of exponentials."""
    each_N = gradient / count if reduction == MEAN else gradient
    return torch.where(target_N != ignored, each_N.expand(target_N.shape), 0), sums[1].log() + sums[0]


def shard_loss_backward(
    before_ND: Tensor | None,
    h_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    start: int,
    each_N: Tensor,
    log_N: Tensor,
    rows: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """(before + what this shard adds to the gradient of h, gradient of W, of b); logits are made again, in chunks.

    each_N, log_N: from `shard_loss_gradient`. The gradient of h adds up in float32 where h is narrower.
    """
    wide = torch.float32 if h_ND.dtype in (torch.float16, torch.bfloat16) else h_ND.dtype
    h_gradient_ND = torch.empty(h_ND.shape, dtype=wide, device=h_ND.device)
    weight_gradient_VD = torch.zeros(weight_VD.shape, dtype=wide, device=h_ND.device)
    bias_gradient_V = torch.zeros(weight_VD.shape[0], dtype=wide, device=h_ND.device)
    for first in range(0, h_ND.shape[0], rows):
        part = slice(first, first + rows)
        logits_CV = torch.nn.functional.linear(h_ND[part], weight_VD, bias_V).to(dtype)
        inside_C, local_C = _local(target_N[part], start, weight_VD.shape[0])
        wide_CV = logits_CV.sub_(log_N[part, None]).exp_().mul_(each_N[part, None])
        wide_CV.scatter_add_(1, local_C, -torch.where(inside_C, each_N[part], 0)[:, None])
        logits_gradient_CV = wide_CV.to(h_ND.dtype)
        del logits_CV, wide_CV
        added_CD = torch.mm(logits_gradient_CV, weight_VD)
        h_gradient_ND[part] = added_CD if before_ND is None else before_ND[part] + added_CD
        if wide == h_ND.dtype:
            weight_gradient_VD.addmm_(logits_gradient_CV.t(), h_ND[part])
        else:
            weight_gradient_VD.add_(torch.mm(logits_gradient_CV.t(), h_ND[part]))
        bias_gradient_V.add_(logits_gradient_CV.sum(0))
    return h_gradient_ND, weight_gradient_VD.to(weight_VD.dtype), bias_gradient_V.to(weight_VD.dtype)


def _local(target_C: Tensor, start: int, words: int) -> tuple[Tensor, Tensor]:
    """(whether the target is a word of this shard, its column [C, 1], any column if it is not)."""
    local_C = target_C - start
    return (local_C >= 0) & (local_C < words), local_C.clamp(0, words - 1)[:, None]


def _check_words(words: Tensor, known: Tensor, vocabulary: int, what: str) -> None:
    if known.device.type != "cpu":
        torch._assert_async(known.all())
    elif not known.all():
        raise InputError(
            f"{what} is {int(words[~known].reshape(-1)[0])}, but the model knows words 0 to {vocabulary - 1}; check that "
            "the data was made by the model's tokenizer"
        )


SHARDS: dict[str, Callable[..., Any]] = {
    "wafer.embedding_rows": embedding_rows,
    "wafer.embedding_rows_backward": embedding_rows_backward,
    "wafer.shard_loss": shard_loss,
    "wafer.shard_loss_end": shard_loss_end,
    "wafer.shard_loss_gradient": shard_loss_gradient,
    "wafer.shard_loss_backward": shard_loss_backward,
}
