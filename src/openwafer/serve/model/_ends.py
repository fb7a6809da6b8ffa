"""What stands before the first layer and after the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from openwafer.serve.kernels import Linear, rms_norm
from openwafer.serve.model._config import ModelConfig
from openwafer.serve.model._precision import Precision
from openwafer.serve.model._step import Step


@final
class Embedding:
    """Token ids to hidden states."""

    def __init__(self, weight_VH: torch.Tensor) -> None:
        self.weight_VH = weight_VH

    def __call__(self, tokens_T: torch.Tensor) -> torch.Tensor:
        """[T, hidden], on the weight's device."""
        return torch.nn.functional.embedding(tokens_T.to(self.weight_VH.device), self.weight_VH)


@final
class Head:
    """Hidden states to logits."""

    def __init__(
        self, config: ModelConfig, norm_H: torch.Tensor, weight_VH: torch.Tensor, precision: Precision
    ) -> None:
        self._epsilon = config.norm_epsilon
        self._norm_H = norm_H
        self._shared = config.tied and precision.quantise == "none"
        self._linear = Linear(weight_VH, None, precision.quantise)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights beside the embedding's own, which a tied head multiplies by unless it is quantised."""
        return self._norm_H.nbytes + (0 if self._shared else self._linear.nbytes)

    def __call__(self, x_TH: torch.Tensor, step: Step, outputs: Sequence[int]) -> torch.Tensor:
        """Logits of the step's tokens `outputs`, which ascend: float32 [outputs, vocabulary].

        They are values of the model's dtype, so that two tokens may be exactly as likely.
        """
        x_OH = rms_norm(x_TH[list(outputs)], self._norm_H, self._epsilon)
        groups = step.output_groups(outputs)
        if len(groups) == 1:
            return self._linear(x_OH, wide=True)
        logits_OV = x_OH.new_empty((len(outputs), self._linear.rows), dtype=torch.float32)
        for group in groups:
            logits_OV[group] = self._linear(x_OH[group], wide=True)
        return logits_OV
