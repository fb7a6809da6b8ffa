"""Optimizers, schedules, clipping and loss scaling as pure parts of the step graph.

A rule is a function from weights, gradients, state and globals to new ones (`UpdateRule`). Rules:
SGD, Adam, AdamW, Adafactor, Lion, `from_torch` for any other torch.optim optimizer, `per_group` for
different rules on different weights. Around a rule: clip_by_global_norm, clip_by_value, and outermost
StaticLossScale or DynamicLossScale. Hyper-parameters may be schedules. `resolve` takes what a user has.
"""

from openwafer.train.optim._adafactor import Adafactor
from openwafer.train.optim._adam import Adam, AdamW
from openwafer.train.optim._groups import per_group
from openwafer.train.optim._lion import Lion
from openwafer.train.optim._resolve import resolve
from openwafer.train.optim._rule import PerWeightRule, Updated, UpdateRule
from openwafer.train.optim._schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    PiecewiseConstant,
    Polynomial,
    Schedule,
    Sequential,
    WarmupCosine,
)
from openwafer.train.optim._sgd import SGD
from openwafer.train.optim._torch import TorchRule, from_torch
from openwafer.train.optim._wrappers import (
    DynamicLossScale,
    StaticLossScale,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "DynamicLossScale",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "Lion",
    "PerWeightRule",
    "PiecewiseConstant",
    "Polynomial",
    "Schedule",
    "Sequential",
    "StaticLossScale",
    "TorchRule",
    "UpdateRule",
    "Updated",
    "WarmupCosine",
    "clip_by_global_norm",
    "clip_by_value",
    "from_torch",
    "global_norm",
    "per_group",
    "resolve",
]
