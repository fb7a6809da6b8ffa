"""Operations on each element equal PyTorch's, in every dtype that programs use, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cirh_ops import kind, run, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

shapes = st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple)
floats = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
few = settings(max_examples=12, deadline=None)


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(-9, 9, shape, generator=generator).to(dtype)
    return (torch.randn(shape, generator=generator) * 2).to(dtype)


UNARY = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Floor": torch.floor, "Sign": torch.sign, "Cos": torch.cos, "Sin": torch.sin,
    "Erf": torch.erf, "Exp": torch.exp, "Reciprocal": torch.reciprocal, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh, "Relu": torch.relu, "HardSigmoid": F.hardsigmoid,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
@few
@given(shape=shapes, dtype=floats)
def test_functions_of_one_number_are_those_of_torch(name, shape, dtype):
    """The same kernels run, on any shape, also one of no dims."""
    x = drawn(shape, dtype)

    (found,) = run_op(name, [x], [(dtype, shape)])

    assert torch.equal(found, UNARY[name](x))


@pytest.mark.parametrize("name", ["Log", "Sqrt", "Rsqrt"])
@few
@given(shape=shapes, dtype=floats)
def test_functions_of_positive_numbers_are_those_of_torch(name, shape, dtype):
    """Negative numbers give NaN in both."""
    x = drawn(shape, dtype).abs()

    (found,) = run_op(name, [x], [(dtype, shape)])

    assert torch.equal(found, getattr(torch, name.lower())(x))


BINARY = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Atan2": torch.atan2, "Div": torch.div}


@pytest.mark.parametrize("name", BINARY)
@few
@given(shape=shapes, dtype=floats)
def test_arithmetic_is_that_of_torch(name, shape, dtype):
    """Both operands are whole tensors; the result is rounded once, to the operands' dtype."""
    x, y = drawn(shape, dtype, 1), drawn(shape, dtype, 2)

    (found,) = run_op(name, [x, y], [(dtype, shape)])

    assert torch.equal(found, BINARY[name](x, y))


@few
@given(shape=shapes)
def test_division_of_integers_goes_towards_zero(shape):
    """So does the vendor's compiler when it folds constants: -7 / 2 is -3."""
    x, y = drawn(shape, torch.int64, 1), drawn(shape, torch.int64, 2).abs() + 1

    (found,) = run_op("Div", [x, y], [(torch.int64, shape)])

    assert torch.equal(found, torch.div(x, y, rounding_mode="trunc"))


@few
@given(shape=shapes, dtype=floats)
def test_powers_are_those_of_torch(shape, dtype):
    """Of positive numbers, to any power."""
    x, y = drawn(shape, dtype, 1).abs() + 0.5, drawn(shape, dtype, 2)

    (found,) = run_op("Pow", [x, y], [(dtype, shape)])

    assert torch.equal(found, torch.pow(x, y))


@pytest.mark.parametrize("name", ["And", "Or", "Xor"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32], ids=str)
def test_logic_works_on_flags_and_on_bits(name, dtype):
    """i1 is a truth value, wider integers are bits."""
    x, y = drawn((7,), dtype, 1), drawn((7,), dtype, 2)

    (found,) = run_op(name, [x, y], [(dtype, (7,))])

    assert torch.equal(found, getattr(torch, f"bitwise_{name.lower()}")(x, y))
    (inverse,) = run_op("Not", [x], [(dtype, (7,))])
    assert torch.equal(inverse, torch.bitwise_not(x))


@pytest.mark.parametrize("direction", ["EQ", "NE", "LT", "LE", "GT", "GE"])
@few
@given(shape=shapes, dtype=st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool]))
def test_comparisons_are_those_of_torch(direction, shape, dtype):
    """Against a tensor, and against a constant that fills one."""
    x, y = drawn(shape, dtype, 1), drawn(shape, dtype, 2)

    (found,) = run_op("Compare", [x, y], [(torch.bool, shape)], f'comparison_direction = "{direction}"')

    assert torch.equal(found, getattr(torch, direction.lower())(x, y))


@few
@given(
    shape=shapes,
    source=st.sampled_from(
        [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool]
    ),
    target=st.sampled_from(
        [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool]
    ),
)
def test_casts_are_those_of_torch(shape, source, target):
    """To an integer towards zero, to i1 whether it is not zero, to a narrower float to the nearest."""
    x = drawn(shape, source)

    (found,) = run_op("Cast", [x], [(target, shape)], "Truncate = false")

    assert torch.equal(found, x.to(target))


@few
@given(shape=shapes, dtype=floats)
def test_selection_and_clamping_are_those_of_torch(shape, dtype):
    """With tensors for all operands; constants are tested as the programs have them."""
    c, x, y = drawn(shape, torch.bool, 3), drawn(shape, dtype, 1), drawn(shape, dtype, 2)

    (chosen,) = run_op("Select", [c, x, y], [(dtype, shape)])
    (clamped,) = run_op("Clamp", [x, y, y + 1], [(dtype, shape)])

    assert torch.equal(chosen, torch.where(c, x, y))
    assert torch.equal(clamped, torch.clamp(x, y, y + 1))


@few
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), dtype=floats)
def test_a_constant_that_fills_a_tensor_acts_as_that_tensor(shape, dtype):
    """It is never made: operators take the number, rounded to the dtype, and the results are bitwise the same."""
    x = drawn(shape, dtype)
    ty, mask = kind(x), kind((torch.bool, shape))
    text = f"""
    func @graph(%x: {ty}) -> ({", ".join([ty] * 6)}) {{
      %k = cirh.Const dense<3.000000e-01> : {ty}
      %z = cirh.Const dense<0.000000e+00> : {ty}
      %0 = cirh.Mul %x, %k : {ty}
      %1 = cirh.Sub %k, %x : {ty}
      %2 = cirh.Div %k, %x : {ty}
      %3 = cirh.Compare %x, %k {{comparison_direction = "GT"}} : {ty} -> {mask}
      %4 = cirh.Select %3, %x, %z : ({mask}, {ty}, {ty}) -> {ty}
      %5 = cirh.Select %3, %k, %x : ({mask}, {ty}, {ty}) -> {ty}
      %6 = cirh.Clamp %x, %z, %k : ({ty}, {ty}, {ty}) -> {ty}
      return %0, %1, %2, %4, %5, %6 : {", ".join([ty] * 6)}
    }}"""
    k = torch.full(shape, 0.3, dtype=dtype)

    found = run(text, x)

    expected = [
        x * k,
        k - x,
        k / x,
        x.where(x > k, 0 * k),
        k.where(x > k, x),
        x.clamp(0, float(k.reshape(-1)[0])),
    ]
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, wanted)


GRADIENTS = {
    "GeluGrad": (lambda x: F.gelu(x), 'approximation = "NONE"'),
    "ReluGrad": (F.relu, ""),
    "EluGrad": (lambda x: F.elu(x, 1.5), "alpha = 1.5 : f64"),
    "LeakyReluGrad": (lambda x: F.leaky_relu(x, 0.1), "alpha = 1.0e-1 : f64"),
    "HardSigmoidGrad": (F.hardsigmoid, ""),
}


@pytest.mark.parametrize("name", GRADIENTS)
@few
@given(shape=shapes)
def test_gradients_of_activations_are_those_of_autograd(name, shape):
    """Operands are the gradient and what the activation was applied to."""
    function, attributes = GRADIENTS[name]
    gradient, x = drawn(shape, torch.float32, 1), drawn(shape, torch.float32, 2).requires_grad_()
    (wanted,) = torch.autograd.grad(function(x), x, gradient)

    (found,) = run_op(name, [gradient, x.detach()], [(torch.float32, shape)], attributes)

    assert torch.allclose(found, wanted, atol=1e-6)
    forward = name.removesuffix("Grad")
    (made,) = run_op(forward, [x.detach()], [(torch.float32, shape)], attributes)
    assert torch.equal(made, function(x.detach()))


def test_the_gradient_of_a_sigmoid_takes_its_result():
    """Operands: the sigmoid's result, then the gradient."""
    x, gradient = drawn((6,), torch.float32, 1).requires_grad_(), drawn((6,), torch.float32, 2)
    y = torch.sigmoid(x)

    (found,) = run_op("SigmoidGrad", [y.detach(), gradient], [(torch.float32, (6,))])

    assert torch.allclose(found, torch.autograd.grad(y, x, gradient)[0])


def test_softplus_and_scaling_by_powers_of_two():
    """Softplus goes over to the identity above its threshold; Fscale moves the exponent."""
    x = drawn((40,), torch.float32) * 10
    powers = drawn((40,), torch.int32, 2)

    (soft,) = run_op("Softplus", [x], [(torch.float32, (40,))], "beta = 1.0 : f32, threshold = 20.0 : f32")
    (scaled,) = run_op("Fscale", [x, powers], [(torch.float32, (40,))])

    assert torch.equal(soft, F.softplus(x))
    assert torch.equal(scaled, x * 2.0**powers)


def test_integers_are_extended_with_and_without_their_sign():
    """ExtSI keeps -1, ExtUI reads its bits as a number."""
    x = torch.tensor([-1, 3], dtype=torch.int16)

    (signed,) = run_op("ExtSI", [x], [(torch.int32, (2,))])
    (unsigned,) = run_op("ExtUI", [x], [(torch.int32, (2,))])

    assert signed.tolist() == [-1, 3]
    assert unsigned.tolist() == [65535, 3]


def test_the_vendors_half_format_rounds_to_nine_bits():
    """cbfloat16 has 6 bits of exponent and 9 of mantissa: coarser than f16 near 1, and far wider."""
    x = torch.tensor(
        [
            1.0,
            1 + 2**-9,
            1 + 2**-10,
            1 + 3 * 2**-10,
            -70000.3,
            1e9,
            2.0**-30,
            2.0**-39,
            2.0**-41,
            3e10,
            torch.nan,
        ]
    )

    (found,) = run_op("Cast", [x], [(torch.float16, (11,))], "Truncate = false", half="cbfloat16")

    expected = [1.0, 1 + 2**-9, 1.0, 1 + 2**-8, -70016.0, 1e9, 2.0**-30, 2.0**-39, 0.0, torch.inf]
    step = 2.0 ** (29 - 9)
    expected[5] = round(1e9 / step) * step
    assert found.dtype == torch.float32
    assert found[:10].tolist() == pytest.approx(expected, rel=0, abs=0)
    assert found[10].isnan()
