"""Clipping against torch.nn.utils, loss scaling against torch.amp.GradScaler."""

from __future__ import annotations

import math

import pytest
import torch

from openwafer.base import InputError
from openwafer.train.optim import (
    SGD,
    AdamW,
    DynamicLossScale,
    StaticLossScale,
    clip_by_global_norm,
    clip_by_value,
    per_group,
)

SHAPES = {"a": (33, 17), "b": (37,), "c": (3, 5, 7)}


def tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(s, generator=generator) for name, s in SHAPES.items()}


def start(rule):
    weights = tensors(0)
    return weights, {name: rule.state(name, w) for name, w in weights.items()}, rule.globals()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_clipping_by_norm_equals_torch_bit_for_bit(scale):
    """Below, near and above the limit; the gradients seen by the rule are recovered by lr 1 from 0."""
    grads = tensors(1, scale)
    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads.values()]
    for p, g in zip(params, grads.values(), strict=True):
        p.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(params, 2.0, foreach=False)
    rule = clip_by_global_norm(SGD(1.0), 2.0)

    new = rule.update({n: torch.zeros_like(g) for n, g in grads.items()}, grads, {}, rule.globals())

    assert torch.equal(new.logs["grad_norm"], norm)
    for p, w in zip(params, new.weights.values(), strict=True):
        assert torch.equal(-w, p.grad)


def test_clipping_by_norm_then_adamw_equals_torch_over_ten_steps():
    """The common recipe as a whole."""
    rule = clip_by_global_norm(AdamW(1e-2), 1.0)
    weights, state, globals = start(rule)
    params = {name: torch.nn.Parameter(w.clone()) for name, w in weights.items()}
    optimizer = torch.optim.AdamW(params.values(), lr=1e-2, fused=True)
    for i in range(10):
        grads = tensors(1 + i)
        for name, p in params.items():
            p.grad = grads[name].clone()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0, foreach=False)
        optimizer.step()
        new = rule.update(weights, grads, state, globals)
        weights, state, globals = new.weights, new.state, new.globals
        assert all(torch.equal(weights[name], p) for name, p in params.items())


def test_the_norm_is_summed_in_the_order_of_the_weights():
    """Gradients arrive in any order (backward, streamed); the numbers must not depend on it."""
    rule = clip_by_global_norm(SGD(1.0), 0.5)
    weights, state, globals = start(rule)
    grads = tensors(1)
    backwards = dict(reversed(grads.items()))

    a, b = (rule.update(weights, g, state, globals) for g in (grads, backwards))

    assert torch.equal(a.logs["grad_norm"], b.logs["grad_norm"])
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in weights)


def test_clipping_by_value_equals_torch():
    """Every entry on its own."""
    grads = tensors(1)
    rule = clip_by_value(SGD(1.0), 0.3)
    new = rule.update({n: torch.zeros_like(g) for n, g in grads.items()}, grads, {}, rule.globals())

    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads.values()]
    for p, g in zip(params, grads.values(), strict=True):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_value_(params, 0.3, foreach=False)
    assert all(torch.equal(-w, p.grad) for w, p in zip(new.weights.values(), params, strict=True))
    total = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads.values()))
    assert float(new.logs["grad_norm"]) == pytest.approx(total, rel=1e-6)


BAD = {2: math.inf, 3: -math.inf, 8: math.nan, 9: math.inf, 10: math.inf}


class TestDynamicLossScale:
    def grads_at(self, step, scale):
        grads = {name: g * scale for name, g in tensors(1 + step, 1e-3).items()}
        if step in BAD:
            grads["b"][5] = BAD[step]
        return grads

    @pytest.mark.parametrize(
        ("initial", "growth", "backoff"), [(2.0**16, 2.0, 0.5), (1000.0, 1.7, 0.3), (3e38, 2.0, 0.5)]
    )
    def test_decides_as_gradscaler_does(self, initial, growth, backoff):
        """Same scale, same skipped steps, same weights over a run with planted infinities and NaNs.

        The third case starts where growing overflows float32: GradScaler then keeps the scale.
        """
        rule = DynamicLossScale(AdamW(1e-2), initial, growth, backoff, growth_interval=2)
        weights, state, globals = start(rule)
        params = {name: torch.nn.Parameter(w.clone()) for name, w in weights.items()}
        optimizer = torch.optim.AdamW(params.values(), lr=1e-2, foreach=False, fused=False)
        inner = AdamW(1e-2)
        inner_weights, inner_state, inner_globals = start(inner)
        scaler = torch.amp.GradScaler(
            "cpu", init_scale=initial, growth_factor=growth, backoff_factor=backoff, growth_interval=2
        )
        scaler.scale(torch.zeros(()))  # GradScaler makes its tensors at the first use
        scales = []
        for i in range(14):
            scale = rule.loss_scale(globals)
            assert torch.equal(scale, scaler._scale)
            grads = self.grads_at(i, scale)

            new = rule.update(weights, grads, state, globals)

            for name, p in params.items():
                p.grad = grads[name].clone()
            scaler.unscale_(optimizer)
            found = sum(float(v) for v in scaler._found_inf_per_device(optimizer).values())
            if not found:  # what the optimizer is given, through the same kernel as the rule
                unscaled = {name: p.grad for name, p in params.items()}
                step = inner.update(inner_weights, unscaled, inner_state, inner_globals)
                inner_weights, inner_state, inner_globals = step.weights, step.state, step.globals
            scaler.step(optimizer)
            scaler.update()
            assert float(new.logs["found_inf"]) == float(found > 0)
            assert torch.equal(new.logs["loss_scale"], scale)
            weights, state, globals = new.weights, new.state, new.globals
            assert all(torch.equal(weights[name], inner_weights[name]) for name in weights)
            assert torch.equal(globals["step"], inner_globals["step"])
            assert int(globals["growth_tracker"]) == int(scaler._growth_tracker)
            scales.append(float(scale))
        assert len(set(scales)) > 2
        assert float(globals["step"]) == 14 - len(BAD)

    def test_a_skipped_step_changes_nothing_but_the_scale(self):
        """One NaN in one gradient: no weight, moment or step count may see it."""
        rule = DynamicLossScale(clip_by_global_norm(AdamW(1e-2), 1.0), 1024.0)
        weights, state, globals = start(rule)
        grads = tensors(1)
        grads["c"][0, 0, 0] = math.nan

        new = rule.update(weights, grads, state, globals)

        assert all(torch.equal(new.weights[n], weights[n]) for n in weights)
        assert all(torch.equal(new.state[n][k], v) for n in state for k, v in state[n].items())
        assert float(new.globals["step"]) == 0
        assert float(new.globals["loss_scale"]) == 512.0

    def test_small_scaled_half_gradients_come_back_exactly(self):
        """A power of two only moves the exponent, which is the point of scaling."""
        rule = DynamicLossScale(SGD(1.0), 2.0**10)
        grad = torch.tensor([1.5 * 2.0**-20, -(2.0**-24)], dtype=torch.float32)
        scaled = (grad * 2.0**10).to(torch.float16)
        new = rule.update({"w": torch.zeros(2)}, {"w": scaled.float()}, {"w": {}}, rule.globals())
        assert torch.equal(-new.weights["w"], grad)


def test_a_static_scale_is_undone_before_the_rule():
    """A power of two makes the scaled run equal the unscaled one bit for bit."""
    plain, scaled = SGD(0.1, momentum=0.9), StaticLossScale(SGD(0.1, momentum=0.9), 256.0)
    weights, state, globals = start(scaled)
    expected = plain.update(weights, tensors(1), state, plain.globals())

    new = scaled.update(weights, tensors(1, 256.0), state, globals)

    assert all(torch.equal(new.weights[n], expected.weights[n]) for n in weights)
    assert float(scaled.loss_scale(globals)) == 256.0
    assert float(new.globals["loss_scale"]) == 256.0


def test_only_a_loss_scale_asks_for_the_loss_to_be_scaled():
    """The capture multiplies the loss by what this returns, and must not where it returns None."""
    rule = AdamW()
    assert rule.loss_scale(rule.globals()) is None
    clipped = clip_by_value(rule, 1.0)
    assert clipped.loss_scale(clipped.globals()) is None
    scaled = DynamicLossScale(clipped, 8.0)
    assert float(scaled.loss_scale(scaled.globals())) == 8.0


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: clip_by_global_norm(AdamW(), 0.0), "max_norm is 0.0"),
        (lambda: clip_by_value(AdamW(), math.inf), "max_value is inf"),
        (lambda: clip_by_global_norm(StaticLossScale(AdamW()), 1.0), "put the loss scale outside"),
        (lambda: DynamicLossScale(StaticLossScale(AdamW())), "put the loss scale outside"),
        (lambda: DynamicLossScale(AdamW(), backoff_factor=1.0), "backoff_factor"),
        (lambda: StaticLossScale(AdamW(), -1.0), "scale is -1.0"),
        (lambda: per_group([(lambda n, w: True, StaticLossScale(AdamW()))]), "group 0 scales the loss"),
    ],
)
def test_wrappers_in_the_wrong_order_or_range_are_refused(build, text):
    """A clip around a loss scale would clip gradients that are 65536 times too large."""
    with pytest.raises(InputError, match=text):
        build()
