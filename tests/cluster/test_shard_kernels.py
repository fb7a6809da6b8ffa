"""The operators that run a vocabulary shard by shard, against the whole ones of ATen."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.base import InputError
from openwafer.cluster._shards import (
    embedding_rows,
    embedding_rows_backward,
    shard_loss,
    shard_loss_backward,
    shard_loss_end,
    shard_loss_gradient,
)

WORDS, IGNORED = 23, -100
REDUCTIONS = ("none", "mean", "sum")

bounds = st.sets(st.integers(1, WORDS - 1), max_size=5).map(lambda cuts: [0, *sorted(cuts), WORDS])


def looked_up(weight, ids, cuts):
    found = None
    for start, stop in pairwise(cuts):
        found = embedding_rows(found, weight[start:stop], ids, start, WORDS)
    return found


@settings(deadline=None, max_examples=30)
@given(cuts=bounds, seed=st.integers(0, 100), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_lookups_of_all_shards_are_bitwise_the_whole(cuts, seed, dtype):
    """A lookup copies; which shard has a row changes none of its bits."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(WORDS, 5, generator=generator).to(dtype)
    ids = torch.randint(WORDS, (3, 7), generator=generator)

    assert torch.equal(looked_up(weight, ids, cuts), F.embedding(ids, weight))


@settings(deadline=None, max_examples=30)
@given(
    cuts=bounds,
    seed=st.integers(0, 100),
    padding=st.sampled_from([-1, 0, 9, WORDS - 1]),
    by_frequency=st.booleans(),
)
def test_gradients_of_all_shards_are_bitwise_the_whole(cuts, seed, padding, by_frequency):
    """Each row adds up its uses in the order of the batch, whatever else is in the table."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(WORDS, (4, 9), generator=generator)
    gradient = torch.randn(4, 9, 5, generator=generator)

    parts = [
        embedding_rows_backward(gradient, ids, start, stop - start, padding, by_frequency)
        for start, stop in pairwise(cuts)
    ]

    whole = torch.ops.aten.embedding_dense_backward(gradient, ids, WORDS, padding, by_frequency)
    assert torch.equal(torch.cat(parts), whole)


@settings(deadline=None, max_examples=30)
@given(
    cuts=bounds, reduction=st.sampled_from([0, 1, 2]), bias=st.booleans(), rows=st.sampled_from([1, 5, 64])
)
def test_losses_of_all_shards_are_the_cross_entropy(cuts, reduction, bias, rows):
    """Running maximum and sum lose nothing: float64 agrees with ATen to its rounding, and so do all gradients."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(11, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(WORDS, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(WORDS, generator=generator, dtype=torch.float64, requires_grad=True) if bias else None
    target = torch.randint(WORDS, (11,), generator=generator)
    target[2:5] = IGNORED
    whole = F.cross_entropy(F.linear(h, weight, b), target, reduction=REDUCTIONS[reduction])
    gradient = torch.full_like(whole, 0.7)
    expected = torch.autograd.grad(whole, [h, weight, *([b] if b is not None else [])], gradient)

    with torch.no_grad():
        parts = [
            (start, weight[start:stop], None if b is None else b[start:stop])
            for start, stop in pairwise(cuts)
        ]
        sums = None
        for start, own, own_b in parts:
            sums = shard_loss(sums, h, own, own_b, target, start, WORDS, IGNORED, rows, torch.float64)
        loss, count = shard_loss_end(sums, target, reduction, IGNORED)
        each = shard_loss_gradient(gradient, sums, target, count, reduction, IGNORED)
        h_gradient, made = None, []
        for start, own, own_b in reversed(parts):
            args = (target, start, *each, rows, torch.float64)
            h_gradient, *others = shard_loss_backward(h_gradient, h, own, own_b, *args)
            made.insert(0, others)

    torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=1e-12)
    assert count == 8
    found = [h_gradient, *(torch.cat(entries) for entries in zip(*made, strict=True))]
    for ours, theirs in zip(found, expected, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_shard_whose_words_are_all_masked_out_adds_nothing():
    """A bias of minus infinity takes words out of a vocabulary; a whole shard of them must not make the sum NaN."""
    weight, h, target = torch.zeros(6, 2), torch.zeros(3, 2), torch.tensor([3, 4, 5])
    bias = torch.tensor([-torch.inf, -torch.inf, -torch.inf, 0.0, 1.0, 2.0])

    sums = None
    for start in (0, 3):
        part = slice(start, start + 3)
        sums = shard_loss(sums, h, weight[part], bias[part], target, start, 6, IGNORED, 8, torch.float32)

    expected = F.cross_entropy(F.linear(h, weight, bias), target)
    torch.testing.assert_close(shard_loss_end(sums, target, 1, IGNORED)[0], expected)


@pytest.mark.parametrize("word", [-1, WORDS])
def test_words_outside_the_vocabulary_are_refused(word):
    """No shard has them, so that the first one must say so."""
    ids, weight = torch.tensor([1, word]), torch.zeros(WORDS, 2)

    with pytest.raises(InputError, match=f"a token id is {word}, but the model knows words 0 to {WORDS - 1}"):
        embedding_rows(None, weight, ids, 0, WORDS)
    with pytest.raises(InputError, match=f"a label is {word}"):
        shard_loss(None, torch.zeros(2, 2), weight, None, ids, 0, WORDS, IGNORED, 8, torch.float32)
