"""Shapes of operators that torch can run but not yet trace without data: the functional fused optimizers.

Without these, tracing would run the real kernel on real zeros as large as the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_impls import op_implementations_dict, register_op_impl

aten = torch.ops.aten


def _same_lists(mode: Any, _func: Any, *args: Any, **_kwargs: Any) -> tuple[list[torch.Tensor], ...]:
    """Results of `_fused_adam[w]`: new weights, gradients, first and second moments, maxima; all like their inputs."""
    with mode:
        return tuple([torch.empty_like(value) for value in values] for values in args[:5])


for _op in (
    aten._fused_adamw.tensor_lr,
    aten._fused_adamw.default,
    aten._fused_adam.tensor_lr,
    aten._fused_adam.default,
):
    if _op not in op_implementations_dict:
        register_op_impl(_op)(_same_lists)
