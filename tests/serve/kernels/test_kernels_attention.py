"""Attention over the paged cache, and a whole decoder layer, against plain arithmetic."""

import math

import pytest
import torch

from openwafer.serve.kernels import (
    BLOCK_TOKENS,
    DecoderLayer,
    Level,
    Linear,
    Paged,
    attention,
    levels,
    rms_norm,
    rotary,
    set_threads,
    swiglu,
    threads,
)

NATIVE: list[Level] = [level for level in levels() if level != "torch"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPSILON = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def make_batch(new: list[int], contexts: list[int], heads_kv: int, dim: int, dtype: torch.dtype):
    """A cache in which every sequence's blocks lie in no order, with garbage between them."""
    torch.manual_seed(0)
    counts = [-(-context // BLOCK_TOKENS) for context in contexts]
    order = torch.randperm(sum(counts) + 3)
    tables_SB = torch.full((len(contexts), max(counts)), -1, dtype=torch.int32)
    used = 0
    for s, count in enumerate(counts):
        tables_SB[s, :count] = order[used : used + count]
        used += count
    keys, values = (torch.randn(sum(counts) + 3, heads_kv, BLOCK_TOKENS, dim).to(dtype) for _ in range(2))
    starts = [0, *torch.tensor(new).cumsum(0).tolist()]
    return Paged(starts, contexts, tables_SB), keys, values


def exact(query_TND, keys, values, paged, window):
    """In float64, token by token; and the sum of |weight x value|, which errors are relative to."""
    out, sizes = [], []
    group = query_TND.shape[1] // keys.shape[1]
    for s, context in enumerate(paged.contexts):
        table = paged.tables_SB[s, : -(-context // BLOCK_TOKENS)].long()
        keys_CGD, values_CGD = (x[table].double().transpose(1, 2).flatten(0, 1) for x in (keys, values))
        for t in range(paged.starts[s], paged.starts[s + 1]):
            seen = context - (paged.starts[s + 1] - 1 - t)
            first = 0 if window is None else max(0, seen - window)
            k, v = (x[first:seen].repeat_interleave(group, 1) for x in (keys_CGD, values_CGD))
            scores = torch.einsum("nd,cnd->nc", query_TND[t].double(), k) / math.sqrt(k.shape[2])
            weights = scores.softmax(1)
            out.append(torch.einsum("nc,cnd->nd", weights, v))
            sizes.append(torch.einsum("nc,cnd->nd", weights, v.abs()))
    return torch.stack(out), torch.stack(sizes)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "heads_kv", "dim"), [(8, 2, 64), (7, 1, 16), (3, 3, 128), (12, 2, 80)])
@pytest.mark.parametrize("window", [None, 1, 100, 600])
def test_attention_is_that_of_float64(level, dtype, heads, heads_kv, dim, window):
    """Contexts of one token, of whole blocks, of several pieces; several new tokens see each other in order."""
    paged, keys, values = make_batch([1, 1, 3, 1, 1], [1, 128, 514, 1100, 300], heads_kv, dim, dtype)
    query_TND = torch.randn(7, heads, dim).to(dtype)

    out = attention(query_TND, keys, values, paged, window, level)

    expected, sizes = exact(query_TND, keys, values, paged, window)
    # A score is off by D roundings of terms of up to its sum of |q k|, here below 8 sqrt(D) / sqrt(D) standard deviations;
    # weights by as much, relative, and by the exponential's 2 units; sums by one rounding a token.
    scores = 2 * dim * 2.0**-24 * 8 * math.sqrt(dim)
    allowed = (2 * scores + 1100 * 2.0**-24 + 8 * 2.0**-24) * sizes
    assert ((out.double() - expected).abs() <= allowed + EPSILON[dtype] * (expected.abs() + allowed)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_runs_of_tokens_are_those_of_float64(dtype):
    """A prompt's chunk goes through torch, beside sequences that have one new token."""
    paged, keys, values = make_batch([1, 40, 1], [200, 300, 7], 2, 32, dtype)
    query_TND = torch.randn(42, 4, 32).to(dtype)

    for window in (None, 130):
        out = attention(query_TND, keys, values, paged, window)

        expected, sizes = exact(query_TND, keys, values, paged, window)
        # torch may round weights and sums over blocks of the context to the dtype
        assert ((out.double() - expected).abs() <= 4 * EPSILON[dtype] * sizes + 1e-5 * sizes).all()


def test_a_token_gets_the_same_bits_whatever_else_is_there():
    """Neither the batch nor the number of threads decides how its sums are cut."""
    paged, keys, values = make_batch([1, 2, 1], [700, 1500, 90], 2, 64, torch.bfloat16)
    query_TND = torch.randn(4, 8, 64).to(torch.bfloat16)
    whole = attention(query_TND, keys, values, paged)
    before = threads()

    for count in (1, 3):
        set_threads(count)
        alone = attention(query_TND[:1], keys, values, Paged([0, 1], [700], paged.tables_SB[:1]))
        assert torch.equal(alone[0], whole[0])
        assert torch.equal(attention(query_TND, keys, values, paged), whole)
    set_threads(before)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extras", [False, True])
def test_a_layer_is_its_parts_one_after_another(level, dtype, extras):
    """One native call rounds where the single operations round, so it differs by a few units in the last place.

    With biases, norms of queries and keys, and a window; and without.
    """
    torch.manual_seed(0)
    hidden, inner, heads, heads_kv, dim = 96, 160, 4, 2, 32
    window = 20 if extras else None
    paged, keys, values = make_batch([1, 2, 1], [10, 129, 260], heads_kv, dim, dtype)

    def linear(rows: int, columns: int) -> Linear:
        bias = torch.randn(rows).to(dtype) if extras else None
        return Linear((torch.randn(rows, columns) / math.sqrt(columns)).to(dtype), bias, level=level)

    qkv, output = linear((heads + 2 * heads_kv) * dim, hidden), linear(hidden, heads * dim)
    gate_up, down = linear(2 * inner, hidden), linear(hidden, inner)
    attention_norm, mlp_norm = (torch.rand(hidden).to(dtype) + 0.5 for _ in range(2))
    query_norm, key_norm = (torch.rand(dim).to(dtype) + 0.5 if extras else None for _ in range(2))
    x_TH, angles = torch.randn(4, hidden).to(dtype), torch.randn(4, dim // 2)
    cos, sin = angles.cos(), angles.sin()
    layer = DecoderLayer(
        attention_norm=attention_norm,
        qkv=qkv,
        output=output,
        mlp_norm=mlp_norm,
        gate_up=gate_up,
        down=down,
        query_norm=query_norm,
        key_norm=key_norm,
        epsilon=1e-5,
        heads=heads,
        heads_kv=heads_kv,
        head_dim=dim,
        window=window,
        level=level,
    )
    one_keys, one_values = keys.clone(), values.clone()

    assert layer.takes(x_TH, paged)
    out = layer(x_TH, paged, cos, sin, one_keys, one_values)

    rows = qkv(rms_norm(x_TH, attention_norm, 1e-5)).view(4, -1, dim)
    q, k, v = rows.split((heads, heads_kv, heads_kv), 1)
    if query_norm is not None and key_norm is not None:
        q, k = rms_norm(q, query_norm, 1e-5), rms_norm(k, key_norm, 1e-5)
    for token, sequence, seen in paged.few_F3.tolist():
        block = paged.tables_SB[sequence, (seen - 1) // BLOCK_TOKENS]
        keys[block, :, (seen - 1) % BLOCK_TOKENS] = rotary(k, cos, sin)[token]
        values[block, :, (seen - 1) % BLOCK_TOKENS] = v[token]
    mixed = attention(rotary(q, cos, sin), keys, values, paged, window, level)
    middle = x_TH + output(mixed.flatten(1))
    expected = middle + down(swiglu(gate_up(rms_norm(middle, mlp_norm, 1e-5))))
    units = 8 * EPSILON[dtype]
    torch.testing.assert_close(one_keys, keys, rtol=units, atol=units)
    torch.testing.assert_close(one_values, values, rtol=units, atol=units)
    torch.testing.assert_close(out, expected, rtol=units, atol=4 * units)


def test_a_layer_refuses_what_it_cannot_take():
    """The caller then runs the operations one by one."""
    paged, _, _ = make_batch([20], [20], 1, 16, torch.float32)
    few, _, _ = make_batch([1], [20], 1, 16, torch.float32)
    norm = torch.ones(32)

    def layer(head_dim: int) -> DecoderLayer:
        rows = 3 * head_dim
        return DecoderLayer(
            attention_norm=norm,
            qkv=Linear(torch.zeros(rows, 32)),
            output=Linear(torch.zeros(32, head_dim)),
            mlp_norm=norm,
            gate_up=Linear(torch.zeros(64, 32)),
            down=Linear(torch.zeros(32, 32)),
            query_norm=None,
            key_norm=None,
            epsilon=1e-5,
            heads=1,
            heads_kv=1,
            head_dim=head_dim,
            window=None,
        )

    assert not layer(16).takes(torch.zeros(20, 32), paged)
    assert not layer(24).takes(torch.zeros(1, 32), few)
    assert layer(16).takes(torch.zeros(1, 32), few)
