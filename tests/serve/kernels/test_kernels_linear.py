"""Products of a matrix and a few tokens: against float64, by instruction set, by number of threads and tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.base import InputError
from openwafer.serve.kernels import NATIVE_TOKENS, Level, Linear, levels, set_threads, threads

NATIVE: list[Level] = [level for level in levels() if level != "torch"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPSILON = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half a unit in the last place, relative."""
SMALLEST = {torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}


@pytest.fixture
def two_threads():
    before = threads()
    set_threads(2)
    yield
    set_threads(before)


def tensors(tokens: int, rows: int, columns: int, dtype: torch.dtype, seed: int = 0):
    torch.manual_seed(seed)
    weight_NK = torch.randn(rows, columns).to(dtype)
    return weight_NK, torch.randn(rows).to(dtype), torch.randn(tokens, columns).to(dtype)


def bound(weight_NK, bias_N, x_TK, expected_TN):
    """What float32 sums of float32 products may be off by, in any order, then rounded once to the dtype.

    K products and a bias are at most K + 1 roundings of terms of that absolute size; one more on the result. Subnormal
    numbers, which BF16's instruction takes for 0, are below 2^-126 each.
    """
    terms = x_TK.double().abs() @ weight_NK.double().abs().T + bias_N.double().abs()
    sums = (weight_NK.shape[1] + 2) * (2.0**-24 * terms + 2.0**-126)
    dtype = weight_NK.dtype
    return sums + EPSILON[dtype] * (expected_TN.abs() + sums) + SMALLEST[dtype]


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, NATIVE_TOKENS),
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_a_product_is_within_float32_sums_of_the_exact_one(level, dtype, tokens, rows, columns, seed):
    """Any shape: rows and columns that fill no vector are as good as others."""
    weight_NK, bias_N, x_TK = tensors(tokens, rows, columns, dtype, seed)

    y_TN = Linear(weight_NK, bias_N, level=level)(x_TK)

    expected_TN = x_TK.double() @ weight_NK.double().T + bias_N.double()
    assert y_TN.dtype == dtype
    assert ((y_TN.double() - expected_TN).abs() <= bound(weight_NK, bias_N, x_TK, expected_TN)).all()


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", range(1, NATIVE_TOKENS + 1))
def test_rows_longer_than_a_block_are_added_up_across_blocks(level, dtype, tokens):
    """Sums wait in memory between blocks of columns; more rows than a chunk has, and no multiple of a tile."""
    weight_NK, bias_N, x_TK = tensors(tokens, 110, 2600, dtype)

    y_TN = Linear(weight_NK, bias_N, level=level)(x_TK)

    expected_TN = x_TK.double() @ weight_NK.double().T + bias_N.double()
    assert ((y_TN.double() - expected_TN).abs() <= bound(weight_NK, bias_N, x_TK, expected_TN)).all()


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, NATIVE_TOKENS),
    rows=st.integers(1, 100),
    columns=st.integers(1, 300),
    size=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_int8_multiplies_the_rounded_matrix_exactly(level, dtype, tokens, rows, columns, size):
    """Only x's rounding to 23 bits below the token's largest number is lost before the result is rounded."""
    weight_NK, _, x_TK = tensors(tokens, rows, columns, dtype)
    x_TK = (x_TK * size).to(dtype)
    scale_N = (weight_NK.float().abs().amax(1) / 127)[:, None]
    whole_NK = (weight_NK.float() / scale_N).round()

    y_TN = Linear(weight_NK, None, "int8", level)(x_TK)

    expected_TN = (x_TK.double() @ whole_NK.double().T) * scale_N.double().T
    # 2^-22 of the largest is a unit of the whole numbers at most; a half each, and those at the top may be cut by one
    lost_T1 = x_TK.double().abs().amax(1, keepdim=True) * 2.0**-22
    allowed = (lost_T1 * whole_NK.abs().sum(1).double() * scale_N.double().T) + 2.0**-24 * expected_TN.abs()
    allowed = allowed + EPSILON[dtype] * (expected_TN.abs() + allowed) + SMALLEST[dtype]
    assert ((y_TN.double() - expected_TN).abs() <= allowed).all()


def test_int8_gives_the_same_bits_by_every_instruction_set():
    """Sums of whole numbers have no order."""
    weight_NK, bias_N, x_TK = tensors(3, 257, 20003, torch.bfloat16)

    results = [Linear(weight_NK, bias_N, "int8", level)(x_TK) for level in NATIVE]

    assert all(torch.equal(results[0], result) for result in results)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("quantise", ["none", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1000, 9001])
def test_a_token_gets_the_same_bits_whatever_is_beside_it(level, quantise, dtype, columns):
    """Greedy answers must not depend on who else is served at the moment, however rows are cut into blocks."""
    weight_NK, bias_N, x_TK = tensors(NATIVE_TOKENS, 33, columns, dtype)
    linear = Linear(weight_NK, bias_N, quantise, level)

    alone = torch.cat([linear(x_TK[t : t + 1]) for t in range(NATIVE_TOKENS)])

    for count in range(1, NATIVE_TOKENS + 1):
        assert torch.equal(linear(x_TK[:count]), alone[:count])


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("quantise", ["none", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 3, NATIVE_TOKENS, NATIVE_TOKENS + 1])
def test_wide_results_are_the_dtypes_values_in_float32(level, quantise, dtype, tokens):
    """Logits that are equal in the model's dtype must stay equal, so that ties are broken as elsewhere."""
    weight_NK, bias_N, x_TK = tensors(tokens, 110, 130, dtype)
    linear = Linear(weight_NK, bias_N, quantise, level=level)

    wide_TN = linear(x_TK, wide=True)

    assert wide_TN.dtype == torch.float32
    assert torch.equal(wide_TN, linear(x_TK).float())


@pytest.mark.parametrize("quantise", ["none", "int8"])
def test_the_number_of_threads_changes_no_bit(quantise, two_threads):
    """A row is one thread's, whoever takes it."""
    weight_NK, bias_N, x_TK = tensors(2, 3000, 512, torch.bfloat16)
    linear = Linear(weight_NK, bias_N, quantise)
    results = []

    for count in (1, 2, 5):
        set_threads(count)
        results.append(linear(x_TK))

    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_many_tokens_give_what_torch_gives():
    """Beyond NATIVE_TOKENS torch multiplies, with the same matrix."""
    weight_NK, bias_N, x_TK = tensors(NATIVE_TOKENS + 1, 40, 96, torch.bfloat16)

    y_TN = Linear(weight_NK, bias_N)(x_TK)

    assert torch.equal(y_TN, torch.nn.functional.linear(x_TK, weight_NK, bias_N))


def test_int8_with_many_tokens_is_near_int8_with_few():
    """Prompts and answers see the same model: torch multiplies by the same whole numbers, rounded to the dtype."""
    weight_NK, _, x_TK = tensors(NATIVE_TOKENS + 1, 70, 128, torch.bfloat16)
    linear = Linear(weight_NK, None, "int8")

    many = linear(x_TK).double()

    few = torch.cat([linear(x_TK[:4]), linear(x_TK[4:8]), linear(x_TK[8:])]).double()
    terms = x_TK.double().abs() @ weight_NK.double().abs().T
    assert ((many - few).abs() <= 2.0**-8 * (1.1 * terms + 2 * few.abs())).all()


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_none(level, dtype):
    """An overflow must be seen where it happens; other tokens and rows are not touched by it."""
    weight_NK, bias_N, x_TK = tensors(3, 20, 50, dtype)
    x_TK[1, 7] = float("nan")
    weight_NK[4, 2] = float("inf")

    plain = Linear(weight_NK, bias_N, level=level)(x_TK)
    weight_NK[4, 2] = 1
    whole = Linear(weight_NK, bias_N, "int8", level)(x_TK)

    assert plain[1].isnan().all()
    assert not plain[0, 4].isfinite()
    assert plain[[0, 2]][:, [0, 1, 2, 3, 5]].isfinite().all()
    assert whole[1].isnan().all()
    assert whole[[0, 2]].isfinite().all()


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_passes_unchanged(level, dtype):
    """Multiplied by 1, each of the 65536 values comes out as it was: subnormal ones too, where float32 products are made."""
    every = torch.arange(-32768, 32768).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    if dtype == torch.bfloat16:
        every = every[every.abs() >= 2.0**-126]
    weight_NK = every[:, None].clone()

    y_TN = Linear(weight_NK, level=level)(torch.ones(1, 1, dtype=dtype))

    assert torch.equal(y_TN[0], every)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_to_the_nearest_even(level, dtype):
    """As torch rounds float32: ties, subnormal results, overflow."""
    torch.manual_seed(1)
    wide = torch.cat([torch.randn(3000) * 10.0**e for e in range(-8, 6)])
    ties = torch.arange(1, 4000).float() * 2.0**-12 + 1
    wide = torch.cat([wide, ties, torch.tensor([65519.9, 65520.0, 3.3e38, 0.0])])
    weight_NK = torch.stack(
        [wide.to(dtype), (wide - wide.to(dtype).float()).nan_to_num(0, 0, 0).to(dtype)], 1
    )

    y_TN = Linear(weight_NK, level=level)(torch.ones(1, 2, dtype=dtype))

    sums = weight_NK.double().sum(1).float()
    clear = (weight_NK[:, 1].abs() >= 2.0**-126) | (weight_NK[:, 1] == 0)
    assert torch.equal(y_TN[0][clear], sums.to(dtype)[clear])


def test_zeros_have_a_scale():
    """A row of zeros, and a token of zeros, give zeros with int8 and not 0 / 0."""
    y_TN = Linear(torch.zeros(3, 5), None, "int8")(torch.stack([torch.zeros(5), torch.ones(5)]))

    assert torch.equal(y_TN, torch.zeros(2, 3))


def test_bytes_are_those_that_are_kept():
    """Plans of memory add them up: a byte a number, and a scale and a sum a row."""
    weight_NK = torch.zeros(6, 10, dtype=torch.bfloat16)

    assert Linear(weight_NK).nbytes == 120
    assert Linear(weight_NK, None, "int8").nbytes == 6 * (10 + 8)


def test_shapes_that_do_not_fit_are_refused():
    """A native product would read what is not there."""
    linear = Linear(torch.zeros(4, 6))
    with pytest.raises(InputError, match="does not fit a matrix of 6 columns"):
        linear(torch.zeros(1, 5))
    with pytest.raises(InputError, match=r"does not fit a matrix of 6 columns for torch\.float32"):
        linear(torch.zeros(1, 6, dtype=torch.float16))
    with pytest.raises(InputError, match=r"a bias of torch\.float32 \[3\] does not fit"):
        Linear(torch.zeros(4, 6), torch.zeros(3))
    with pytest.raises(InputError, match=r"give float32, float16 or bfloat16"):
        Linear(torch.zeros(4, 6, dtype=torch.float64))
    with pytest.raises(InputError, match="level 'neon' is not to be had here"):
        Linear(torch.zeros(4, 6), level="neon")


def test_threads_must_be_at_least_one():
    """Nobody would compute."""
    with pytest.raises(InputError, match="0 threads cannot compute"):
        set_threads(0)
