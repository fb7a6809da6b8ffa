"""MaskedTokens: a fixed number of masked positions, the same in every run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.base import InputError
from openwafer.train.data import MaskedTokens, from_dataset

MASK, VOCAB = 103, 1000


def sequences(count, seq_len, low=200):
    ids = torch.randint(low, VOCAB, (count, seq_len), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones(seq_len, dtype=torch.int64)} for row in ids]


@settings(deadline=None)
@given(seq_len=st.integers(4, 80), fraction=st.floats(0.15, 1.0), seed=st.integers(-9, 2**70))
def test_every_sample_has_the_same_number_of_labels_and_only_those_positions_change(seq_len, fraction, seed):
    """Equal shards then have equal weights in the mean loss."""
    plain = sequences(3, seq_len)
    data = MaskedTokens(plain, MASK, VOCAB, fraction, seed)

    for before, after in zip(plain, data, strict=True):
        chosen = after["labels"] != -100
        assert int(chosen.sum()) == round(fraction * seq_len)
        assert torch.equal(after["labels"][chosen], before["input_ids"][chosen])
        assert torch.equal(after["input_ids"][~chosen], before["input_ids"][~chosen])
        assert after["input_ids"].min() >= 0
        assert after["input_ids"].max() < VOCAB
        assert after["attention_mask"] is before["attention_mask"]


def test_a_resumed_run_sees_the_same_masks():
    """They depend on the seed and the sample's index, not on the order of reading."""
    plain = sequences(12, 40)
    whole = from_dataset(MaskedTokens(plain, MASK, VOCAB, seed=1), 4)
    seen = [whole.batch(step) for step in range(7)]

    resumed = from_dataset(MaskedTokens(plain, MASK, VOCAB, seed=1), 4)

    for step in (6, 5, 2):
        assert all(torch.equal(resumed.batch(step)[key], seen[step][key]) for key in seen[step])


def test_seeds_and_samples_have_masks_of_their_own():
    """Equal text at two places is masked differently, and so is another seed's run."""
    same = [torch.arange(200, 300)] * 2
    masks = [
        tuple((MaskedTokens(same, MASK, VOCAB, seed=s)[i]["labels"] != -100).tolist())
        for s in (0, 1)
        for i in (0, 1)
    ]

    assert len(set(masks)) == 4


def test_of_the_chosen_positions_eight_of_ten_are_masked_one_is_random_and_one_stays():
    """As in BERT. 15,000 draws: a share is off by less than 5 standard deviations, 5 * sqrt(.16 / 15000)."""
    data = MaskedTokens(sequences(100, 1000), MASK, VOCAB)
    samples = [data[i] for i in range(100)]
    ids, labels = (torch.cat([s[key] for s in samples]) for key in ("input_ids", "labels"))
    ids, labels = ids[labels != -100], labels[labels != -100]

    shares = [(ids == MASK), (ids == labels), (ids != MASK) & (ids != labels)]

    assert len(ids) == 15_000
    for share, expected in zip(shares, (0.8, 0.1, 0.1), strict=True):
        assert abs(float(share.float().mean()) - expected) < 0.0164
    positions = torch.stack([s["labels"] != -100 for s in samples]).float().mean(0)
    assert abs(float(positions[:500].mean()) - 0.15) < 0.01


def test_padding_and_special_tokens_are_never_chosen():
    """Predicting padding teaches nothing, and separators carry the structure."""
    ids = torch.tensor([101, 5, 6, 102, 7, 8, 102, 0, 0, 0])
    data = [{"input_ids": ids, "attention_mask": [1] * 7 + [0] * 3}] * 50

    for sample in MaskedTokens(data, MASK, VOCAB, 0.4, special_tokens=(101, 102)):
        assert set((sample["labels"] != -100).nonzero().flatten().tolist()) == {1, 2, 4, 5}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: MaskedTokens([], 1000, VOCAB), "mask_token 1000 is not in a vocabulary of 1000"),
        (lambda: MaskedTokens([], MASK, VOCAB, 0), "fraction is 0"),
        (lambda: MaskedTokens([{"x": 1}], MASK, VOCAB)[0], "sample 0 has no input_ids"),
        (lambda: MaskedTokens(["text"], MASK, VOCAB)[0], "input_ids are not numbers"),
        (lambda: MaskedTokens([torch.ones(3)], MASK, VOCAB)[0], r"float32 of shape \[3\]; need integers"),
        (lambda: MaskedTokens([[[1]]], MASK, VOCAB)[0], r"int64 of shape \[1, 1\]"),
        (
            lambda: MaskedTokens([[5, 1000]], MASK, VOCAB)[0],
            "sample 0 has token 1000, outside of a vocabulary",
        ),
        (lambda: MaskedTokens([[5, -1]], MASK, VOCAB)[0], "sample 0 has token -1"),
        (lambda: MaskedTokens([[5, 6]], MASK, VOCAB)[0], "asks for 0; raise the fraction"),
        (
            lambda: MaskedTokens(
                [{"input_ids": [5] * 20, "attention_mask": [1] * 2 + [0] * 18}], MASK, VOCAB
            )[0],
            r"sample 0 has 2 of 20 positions that may be masked, and fraction 0.15 asks for 3; lower",
        ),
        (
            lambda: MaskedTokens([{"input_ids": [5] * 9, "attention_mask": [1]}], MASK, VOCAB)[0],
            r"has shape \[1\]",
        ),
    ],
)
def test_samples_that_cannot_be_masked_say_why(make, text):
    """A sample with fewer masks than the others would weigh differently, so it is refused, by its index."""
    with pytest.raises(InputError, match=text):
        make()


def test_a_sample_outside_is_an_index_error():
    """Plain iteration ends by it."""
    with pytest.raises(IndexError):
        MaskedTokens(sequences(2, 10), MASK, VOCAB)[2]
