"""What the trainer says about a step and about an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One completed training step. Numbers may be anything that `float` accepts, such as a 0-d tensor."""

    step: int
    """Completed steps, this one included: the first step of a run is 1."""
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the training batch, such as accuracy."""
    logs: dict[str, float] = field(default_factory=dict)
    """Of the optimization: lr, grad_norm, loss_scale. A name with a slash is a TensorBoard tag of its own."""
    samples: int
    """Samples of this step, over all systems."""
    tokens: int | None = None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """One completed evaluation, after `step` completed training steps."""

    step: int
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    samples: int
    seconds: float
