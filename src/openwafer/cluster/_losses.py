"""Projection onto a vocabulary with cross entropy, in chunks of rows, so that the logits are never whole.

Legend: N rows, D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

NONE, MEAN = 0, 1


def linear_loss(
    h_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    reduction: int,
    ignored: int,
    rows: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """`cross_entropy(h @ W.T + b, target)` and the number of targets that count.

    reduction: 0 none, 1 mean, 2 sum, as ATen counts them; dtype: in which the logits are normalised. The sum over rows may
    differ from ATen's in the last bits.
    """
    losses_N = torch.empty(h_ND.shape[0], dtype=dtype, device=h_ND.device)
    for part, log_CV in _chunks(h_ND, weight_VD, bias_V, rows, dtype):
        losses_N[part] = aten.nll_loss_forward(log_CV, target_N[part], None, NONE, ignored)[0]
    count = (target_N != ignored).sum().to(dtype)
    if reduction == NONE:
        return losses_N, count
    return (losses_N.sum() / count if reduction == MEAN else losses_N.sum()), count


def linear_loss_backward(
    gradient: Tensor,
    h_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_N: Tensor,
    count: Tensor,
    reduction: int,
    ignored: int,
    rows: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h, W and b; the logits of each chunk are made again."""
    each_N = (
        gradient.expand(h_ND.shape[0])
        if reduction == NONE
        else (gradient / count if reduction == MEAN else gradient)
    )
    each_N = each_N.expand(h_ND.shape[0]).contiguous()
    one = torch.ones((), dtype=dtype, device=h_ND.device)
    h_gradient_ND = torch.empty_like(h_ND)
    weight_gradient_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=h_ND.device)
    bias_gradient_V = torch.zeros(weight_VD.shape[0], dtype=torch.float32, device=h_ND.device)
    for part, log_CV in _chunks(h_ND, weight_VD, bias_V, rows, dtype):
        picked_CV = aten.nll_loss_backward(each_N[part], log_CV, target_N[part], None, NONE, ignored, one)
        logits_gradient_CV = aten._log_softmax_backward_data(picked_CV, log_CV, 1, dtype).to(h_ND.dtype)
        del picked_CV, log_CV
        torch.mm(logits_gradient_CV, weight_VD, out=h_gradient_ND[part])
        if h_ND.dtype == torch.float32:
            weight_gradient_VD.addmm_(logits_gradient_CV.t(), h_ND[part])
        else:
            weight_gradient_VD.add_(torch.mm(logits_gradient_CV.t(), h_ND[part]))
        bias_gradient_V.add_(logits_gradient_CV.sum(0))
    return h_gradient_ND, weight_gradient_VD.to(weight_VD.dtype), bias_gradient_V.to(weight_VD.dtype)


def _chunks(
    h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """(rows, log-probabilities of those rows)."""
    for start in range(0, h_ND.shape[0], rows):
        part = slice(start, start + rows)
        logits_CV = torch.nn.functional.linear(h_ND[part], weight_VD, bias_V).to(dtype)
        yield part, aten._log_softmax(logits_CV, 1, False)


LOSSES: dict[str, Callable[..., Any]] = {
    "wafer.linear_loss": linear_loss,
    "wafer.linear_loss_backward": linear_loss_backward,
}
