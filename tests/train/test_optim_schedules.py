"""Schedules against torch.optim.lr_scheduler and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import lr_scheduler

from openwafer.base import InputError
from openwafer.train.optim import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    PiecewiseConstant,
    Polynomial,
    Sequential,
    WarmupCosine,
)

STEPS = 14


def values(schedule, steps=STEPS):
    return [float(schedule(torch.tensor(float(i)))) for i in range(steps)]


def torch_values(build, lr, steps=STEPS):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = build(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def warmup_cosine(optimizer):
    return lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4),
            lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.02),
        ],
        milestones=[4],
    )


PAIRS = {
    "constant": (Constant(0.3), lambda o: lr_scheduler.ConstantLR(o, 1.0), 0.3),
    "linear": (
        Linear(0.1, 0.4, 9),
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, end_factor=1.0, total_iters=9),
        0.4,
    ),
    "cosine": (
        Cosine(0.5, 0.1, STEPS - 1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS - 1, eta_min=0.1),
        0.5,
    ),
    "exponential": (Exponential(0.5, 0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9), 0.5),
    "polynomial": (
        Polynomial(0.5, 0.0, 9, power=2.0),
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=9, power=2.0),
        0.5,
    ),
    "piecewise": (
        PiecewiseConstant((3, 7), (1.0, 0.5, 0.25)),
        lambda o: lr_scheduler.MultiStepLR(o, [3, 7], gamma=0.5),
        1.0,
    ),
    "warmup cosine": (WarmupCosine(0.5, 4, 14, end=0.02, start=0.05), warmup_cosine, 0.5),
    "sequential": (
        Sequential((Constant(0.2), Exponential(2.0, 0.5)), (5,)),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o, 0.1, total_iters=99), lr_scheduler.ExponentialLR(o, 0.5)], [5]
        ),
        2.0,
    ),
    "inverse sqrt": (
        InverseSqrt(0.5, 4),
        lambda o: lr_scheduler.LambdaLR(o, lambda i: i / 4 if i < 4 else math.sqrt(4 / i)),
        0.5,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_schedule_equals_torchs_scheduler(name):
    """To 1e-12: torch computes most of them step by step from the last value, these in closed form."""
    schedule, build, lr = PAIRS[name]
    assert values(schedule) == pytest.approx(torch_values(build, lr), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", PAIRS)
def test_a_schedule_traces_without_the_step(name):
    """One graph serves every step, so nothing may branch on the step's value."""
    schedule, _, _ = PAIRS[name]
    graph = make_fx(schedule)(FakeTensorMode().from_tensor(torch.tensor(0.0)))

    for i in range(STEPS):
        step = torch.tensor(float(i))
        assert torch.equal(graph(step), schedule(step))


@pytest.mark.parametrize("name", PAIRS)
def test_a_value_is_0_dim_float64_for_any_step_dtype(name):
    """float64, so that a scheduled constant is the very float that it stands for."""
    schedule, _, _ = PAIRS[name]
    for dtype in (torch.float32, torch.int64, torch.float64):
        value = schedule(torch.tensor(3, dtype=dtype))
        assert value.ndim == 0
        assert value.dtype == torch.float64
        assert float(value) == values(schedule)[3]


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (Linear(0.3, 0.1, 10), 0.1),
        (Cosine(0.3, 0.1, 10), 0.1),
        (Polynomial(0.3, 0.1, 10, power=3.0), 0.1),
        (WarmupCosine(0.3, 2, 10, end=0.1), 0.1),
    ],
)
def test_a_finished_schedule_stays_at_its_end(schedule, end):
    """A run that goes on after the planned steps must not see the lr rise again or become negative."""
    assert values(schedule, 30)[10:] == pytest.approx([end] * 20, rel=1e-15)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Linear(0.0, 1.0, 0), "Linear: steps is 0"),
        (lambda: WarmupCosine(1.0, 10, 10), "the warmup alone takes 10"),
        (lambda: InverseSqrt(1.0, 0), "warmup_steps is 0"),
        (lambda: Exponential(1.0, 0.0), "gamma"),
        (lambda: PiecewiseConstant((3,), (1.0,)), "one more of values than of boundaries"),
        (lambda: PiecewiseConstant((3, 3), (1.0, 0.5, 0.1)), "increase"),
        (lambda: Sequential((Constant(1.0), Constant(2.0)), (0,)), "positive and increase"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(build, text):
    """When it is written, not at the step where it would divide by zero."""
    with pytest.raises(InputError, match=text):
        build()
