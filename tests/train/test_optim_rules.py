"""SGD, Adam, AdamW, Adafactor and Lion against torch.optim and the papers."""

from __future__ import annotations

import pytest
import torch

from openwafer.base import InputError
from openwafer.train.optim import SGD, Adafactor, Adam, AdamW, Constant, Linear, Lion, Schedule

SHAPES = {"matrix": (33, 17), "vector": (37,), "scalar": (), "cube": (3, 5, 7)}


def tensors(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(s, generator=generator).to(dtype) for name, s in SHAPES.items()}


def run(rule, steps=10, dtype=torch.float32):
    """The weights after each step of a rule."""
    weights, globals = tensors(0, dtype), rule.globals()
    state = {name: rule.state(name, w) for name, w in weights.items()}
    for i in range(steps):
        new = rule.update(weights, tensors(1 + i, dtype), state, globals)
        weights, state, globals = new.weights, new.state, new.globals
        yield weights


def run_torch(build, steps=10, dtype=torch.float32, lr=None):
    """The weights after each step of a torch optimizer on the same gradients."""
    params = {name: torch.nn.Parameter(w) for name, w in tensors(0, dtype).items()}
    optimizer = build(list(params.values()))
    for i in range(steps):
        for name, grad in tensors(1 + i, dtype).items():
            params[name].grad = grad
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr(i)
        optimizer.step()
        yield {name: p.detach().clone() for name, p in params.items()}


def assert_bitwise(rule, build, **options):
    steps = 0
    for ours, theirs in zip(run(rule), run_torch(build, **options), strict=True):
        steps += 1
        for name in SHAPES:
            assert torch.equal(ours[name], theirs[name]), f"{name} differs at step {steps}"
    assert steps == 10


SGD_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", SGD_OPTIONS)
def test_sgd_equals_torch_bit_for_bit(options):
    """Same formula, same roundings: addcmul by a 0-dim lr rounds once, as add(alpha=lr) does."""
    assert_bitwise(
        SGD(3e-2, **options), lambda params: torch.optim.SGD(params, lr=3e-2, foreach=False, **options)
    )


@pytest.mark.parametrize("options", SGD_OPTIONS)
def test_sgd_with_a_schedule_equals_torch_with_each_steps_lr(options):
    """The schedule is a float64 tensor, so its value is the float that torch would have been given."""
    schedule = Linear(0.1, 0.01, 7)
    assert_bitwise(
        SGD(schedule, **options),
        lambda params: torch.optim.SGD(params, lr=1.0, foreach=False, **options),
        lr=lambda i: float(schedule(torch.tensor(float(i)))),
    )


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}])
@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_adam_and_adamw_equal_torch_fused_bit_for_bit(ours, theirs, options):
    """Both call the same kernel; the lr is passed in float64, as the kernel takes a Python float."""
    assert_bitwise(ours(3e-4, **options), lambda params: theirs(params, lr=3e-4, fused=True, **options))


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_a_scheduled_lr_in_adam_equals_torch_with_each_steps_lr(ours, theirs):
    """The kernel sees the same float64 lr in both."""
    schedule = Linear(1e-2, 1e-3, 7)
    assert_bitwise(
        ours(schedule, weight_decay=0.1),
        lambda params: theirs(params, lr=1.0, fused=True, weight_decay=0.1),
        lr=lambda i: float(schedule(torch.tensor(float(i)))),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_adamw_in_other_dtypes_equals_torch_bit_for_bit(dtype):
    """The kernel computes in float32 or wider whatever the weight's dtype."""
    theirs = run_torch(lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True), dtype=dtype)
    for ours, reference in zip(run(AdamW(1e-3), dtype=dtype), theirs, strict=True):
        assert all(torch.equal(ours[name], reference[name]) for name in SHAPES)


def test_sgd_in_float64_equals_torch_bit_for_bit():
    """As in float32."""
    theirs = run_torch(
        lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9, foreach=False), dtype=torch.float64
    )
    for ours, reference in zip(run(SGD(1e-2, 0.9), dtype=torch.float64), theirs, strict=True):
        assert all(torch.equal(ours[name], reference[name]) for name in SHAPES)


def test_sgd_does_not_round_lr_to_a_16_bit_weights_dtype():
    """A 0-dim tensor beside a bfloat16 weight would be cast to bfloat16, where 1.004 is 1.0.

    lr is computed in float32 instead; a step from 0 shows its exact rounding.
    """
    grad = torch.full((64,), 100.0, dtype=torch.bfloat16)
    rule = SGD(1.004)
    new = rule.update({"w": torch.zeros_like(grad)}, {"w": grad}, {"w": {}}, rule.globals())
    assert torch.equal(new.weights["w"], torch.full((64,), -100.4).to(torch.bfloat16))
    assert float(new.weights["w"][0]) != -100.0


def test_matrices_decay_leaves_vectors_and_scalars_undecayed():
    """Norm scales and biases are commonly kept out of weight decay."""
    for ours, plain, decayed in zip(
        run(AdamW(1e-2, weight_decay=0.5, decay="matrices")),
        run(AdamW(1e-2, weight_decay=0.0)),
        run(AdamW(1e-2, weight_decay=0.5)),
        strict=True,
    ):
        for name, shape in SHAPES.items():
            expected = decayed if len(shape) >= 2 else plain
            assert torch.equal(ours[name], expected[name])
            assert not torch.equal(plain[name], decayed[name])


def test_decay_may_be_a_function_of_name_and_weight():
    """The usual way to keep embeddings out."""
    chosen = AdamW(1e-2, weight_decay=0.5, decay=lambda name, w: name == "cube")
    for ours, plain, decayed in zip(
        run(chosen),
        run(AdamW(1e-2, weight_decay=0.0)),
        run(AdamW(1e-2, weight_decay=0.5)),
        strict=True,
    ):
        assert torch.equal(ours["cube"], decayed["cube"])
        assert torch.equal(ours["matrix"], plain["matrix"])


@pytest.mark.parametrize("rule", [SGD, Adam, AdamW, Adafactor, Lion])
def test_a_scheduled_weight_decay_that_is_constant_equals_the_constant(rule):
    """Up to one rounding per step: Adam's fused op takes decay only as a number, so it is applied before.

    Lion is looser: a sign can flip only if its argument changes, which decay does not touch.
    """
    lr = 1e-2
    scheduled: Schedule = Constant(0.1)
    for a, b in zip(run(rule(lr, weight_decay=0.1)), run(rule(lr, weight_decay=scheduled)), strict=True):
        for name in SHAPES:
            torch.testing.assert_close(a[name], b[name], rtol=2e-6, atol=2e-6)


def test_a_scheduled_weight_decay_follows_its_schedule():
    """SGD by hand in float64: w -= lr * (g + decay(step) * w)."""
    decay = Linear(0.5, 0.0, 4)
    weights = tensors(0, torch.float64)
    for i, ours in enumerate(run(SGD(0.1, weight_decay=decay), steps=6, dtype=torch.float64)):
        now = 0.5 * max(0.0, 1 - i / 4)
        for name, grad in tensors(1 + i, torch.float64).items():
            weights[name] = weights[name] - 0.1 * (grad + now * weights[name])
            torch.testing.assert_close(ours[name], weights[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"d": 2.0, "eps": (1e-10, 1e-2)}])
def test_adafactor_equals_torch_to_one_part_in_a_million(options):
    """torch computes the step size in Python floats, this in float64 tensors; both round to float32."""
    theirs = run_torch(lambda params: torch.optim.Adafactor(params, lr=3e-2, foreach=False, **options))
    for ours, reference in zip(run(Adafactor(3e-2, **options)), theirs, strict=True):
        for name in SHAPES:
            torch.testing.assert_close(ours[name], reference[name], rtol=1e-6, atol=1e-7)


def test_adafactor_keeps_a_row_and_a_column_per_matrix():
    """That is its reason to exist: R + C numbers instead of R * C."""
    state = Adafactor().state("w", torch.zeros(4, 100, 200))
    assert {key: tuple(v.shape) for key, v in state.items()} == {
        "row_var": (4, 100, 1),
        "col_var": (4, 1, 200),
    }


def test_lion_equals_the_paper():
    """Chen et al. 2023, algorithm 2, in float64; the tolerance is float64 rounding over ten steps."""
    lr, (beta1, beta2), decay = 1e-2, (0.9, 0.99), 0.3
    weights = tensors(0, torch.float64)
    momentum = {name: torch.zeros_like(w) for name, w in weights.items()}
    rule = Lion(lr, betas=(beta1, beta2), weight_decay=decay)
    for i, ours in enumerate(run(rule, dtype=torch.float64)):
        for name, g in tensors(1 + i, torch.float64).items():
            c = beta1 * momentum[name] + (1 - beta1) * g
            weights[name] = weights[name] - lr * (c.sign() + decay * weights[name])
            momentum[name] = beta2 * momentum[name] + (1 - beta2) * g
            torch.testing.assert_close(ours[name], weights[name], rtol=1e-12, atol=1e-13)


def test_updates_log_the_lr_that_they_used():
    """What a run shows must be the lr of that step, not of the next."""
    rule = AdamW(Linear(1.0, 0.0, 4))
    weights, globals = tensors(0), rule.globals()
    state = {name: rule.state(name, w) for name, w in weights.items()}
    seen = []
    for _ in range(3):
        new = rule.update(weights, tensors(1), state, globals)
        seen.append(float(new.logs["lr"]))
        globals = new.globals
    assert seen == [1.0, 0.75, 0.5]
    assert float(globals["step"]) == 3


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: SGD(-1.0), "lr"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs momentum"),
        (lambda: Adam(betas=(1.0, 0.9)), r"betas\[0\]"),
        (lambda: AdamW(decay="vectors"), "vectors"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay"),
        (lambda: Lion(betas=(0.9, 1.5)), r"betas\[1\]"),
        (lambda: Adafactor(d=0.5), "d is 0.5"),
        (lambda: AdamW().state("index", torch.zeros(3, dtype=torch.int64)), "'index' is torch.int64"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(build, text):
    """Before anything runs, and in words that name the setting."""
    with pytest.raises(InputError, match=text):
        build()
