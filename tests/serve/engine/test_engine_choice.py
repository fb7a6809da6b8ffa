"""What each request changes in its row of logits, and what is chosen then, beside NumPy in float64. V tokens."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Any

import numpy as np
import pytest
from engine_fakes import END, VOCABULARY, ask, tokenizer  # type: ignore[import-not-found]
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.serve.engine import Group, Sequence
from openwafer.serve.engine._choice import Chooser, Row
from openwafer.serve.engine._sampling import scale
from openwafer.serve.kernels import NO_TOKEN, Floats

BOOLEANS_V = np.ndarray


def sequence(answer: Tokens[int] = (), seed: int = 0, **changes: Any) -> Sequence:
    """One that has answered so far; changes are of Request, or of Sampling."""
    group = Group(ask((1, 2), None, seed=seed, **changes), "", 0, 1000, lambda piece: None)
    one = Sequence(group, 0, tokenizer(), frozenset({END}), None)
    for token in answer:
        one.tokens.append(token)
        one.counts[token] = one.counts.get(token, 0) + 1
    return one


def bits(allowed_V: BOOLEANS_V) -> bytes:
    """What a grammar gives."""
    return np.packbits(allowed_V, bitorder="little").tobytes()


def only(*tokens: int) -> BOOLEANS_V:
    allowed_V = np.zeros(VOCABULARY, dtype=bool)
    allowed_V[[*tokens]] = True
    return allowed_V


def random_rows(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, VOCABULARY), dtype=np.float32) * 3


def changed(one: Sequence, logits_V: Floats, allowed_V: BOOLEANS_V | None) -> np.ndarray:
    """The row that a token is chosen from."""
    sampling = one.group.request.sampling
    row_V = logits_V.astype(np.float64)
    for token, bias in sampling.logit_bias.items():
        row_V[token] += bias
    for token, count in one.counts.items():
        row_V[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    if allowed_V is not None:
        row_V[~allowed_V] = -np.inf
    if one.answer_tokens < one.group.request.min_tokens and np.isfinite(np.delete(row_V, END)).any():
        row_V[END] = -np.inf
    return row_V


def nucleus(row_V: np.ndarray, temperature: float, top_p: float) -> set[int]:
    """The tokens that may be drawn; those on its border, too, where float32 may decide otherwise."""
    by = scale(temperature, top_p)
    if by == 0:
        return {int(row_V.argmax())}
    chances_V = np.exp((row_V - row_V.max()) * by)
    chances_V /= chances_V.sum()
    order_V = np.argsort(-chances_V, kind="stable")
    before_V = chances_V[order_V].cumsum() - chances_V[order_V]
    return {int(t) for t in order_V[before_V < top_p + 1e-5] if chances_V[t] > 0}


REQUESTS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-9, 1e-6, 0.7, 2.0]),
        "top_p": st.sampled_from([0.0, 0.3, 0.9, 1.0]),
        "frequency_penalty": st.sampled_from([0.0, 1.5, -2.0]),
        "presence_penalty": st.sampled_from([0.0, 0.5, -30.0]),
        "logit_bias": st.dictionaries(st.integers(0, END), st.sampled_from([-100.0, 3.0, 100.0]), max_size=3),
        "min_tokens": st.sampled_from([0, 2]),
        "logprobs": st.sampled_from([None, 0, 3]),
        "answer": st.lists(st.integers(0, END), max_size=3),
        "seed": st.integers(0, 1000),
    }
)
ROWS = st.tuples(REQUESTS, st.sampled_from([None, only(END), only(3, END), only(*range(0, END, 2))]))


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(0, 1000))
def test_a_row_becomes_a_token_as_its_request_says_and_as_if_it_were_alone(
    rows: list[tuple[dict[str, Any], BOOLEANS_V | None]], seed: int
) -> None:
    """Penalties, biases, the end before its time, a grammar, a temperature and top_p, and the model's own probabilities."""
    logits_RV = random_rows(len(rows) + 1, seed)
    sequences = [sequence(**request) for request, _ in rows]
    asked = [
        Row(one, place, None if allowed_V is None else bits(allowed_V))
        for place, (one, (_, allowed_V)) in enumerate(zip(sequences, rows, strict=True))
    ]
    chooser = Chooser(VOCABULARY)

    found = chooser.choose(logits_RV.copy(), asked)

    for row, (_, allowed_V), (token, told) in zip(asked, rows, found, strict=True):
        request, logits_V = row.sequence.group.request, logits_RV[row.place]
        row_V = changed(row.sequence, logits_V, allowed_V)
        assert token in nucleus(row_V, request.sampling.temperature, request.sampling.top_p)
        assert (told is None) == (request.logprobs is None)
        if told is not None:
            wide_V = logits_V.astype(np.float64)
            logprobs_V = wide_V - wide_V.max() - np.log(np.exp(wide_V - wide_V.max()).sum())
            assert told.logprob == pytest.approx(logprobs_V[token], abs=1e-4)
            assert [t for t, _ in told.top] == np.argsort(-wide_V, kind="stable")[: request.logprobs].tolist()
            assert [p for _, p in told.top] == pytest.approx([logprobs_V[t] for t, _ in told.top], abs=1e-4)
        assert chooser.choose(logits_RV.copy(), [row]) == [(token, told)]


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_a_grammar_leaves_only_the_end_it_comes_before_min_tokens(
    temperature: float, logprobs: int | None
) -> None:
    """The text is at its end; without a grammar, and where another token is allowed, the end waits."""
    early = sequence(temperature=temperature, min_tokens=5, logprobs=logprobs)
    logits_RV = random_rows(1)
    logits_RV[0, END] = 30

    def token(mask: bytes | None) -> int:
        return Chooser(VOCABULARY).choose(logits_RV.copy(), [Row(early, 0, mask)])[0][0]

    assert token(bits(only(END))) == END
    assert token(bits(only(7, END))) == 7
    assert token(None) != END


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_narrow_nucleus_is_found_however_often_it_takes(logprobs: int | None) -> None:
    """Of equally likely tokens a hundredth is in it: most draws fall beside it and are repeated."""
    logits_RV = np.zeros((1, VOCABULARY), dtype=np.float32)
    chooser = Chooser(VOCABULARY)

    tokens = {
        chooser.choose(
            logits_RV.copy(), [Row(sequence(seed=s, temperature=1, top_p=0.01, logprobs=logprobs), 0, None)]
        )[0][0]
        for s in range(200)
    }

    assert tokens == {0, 1, 2}


def test_what_is_drawn_again_comes_as_often_as_its_chances_say() -> None:
    """Of 0.5, 0.3 and 0.2 the first two are the nucleus: 5/8 and 3/8 of it, whatever the first draw was."""
    logits_RV = np.full((1, VOCABULARY), -np.inf, dtype=np.float32)
    logits_RV[0, :3] = np.log([0.5, 0.3, 0.2])
    chooser, count = Chooser(VOCABULARY), 2000

    tokens = [
        chooser.choose(logits_RV.copy(), [Row(sequence(seed=s, temperature=1, top_p=0.6), 0, None)])[0][0]
        for s in range(count)
    ]

    assert set(tokens) == {0, 1}
    assert tokens.count(0) / count == pytest.approx(5 / 8, abs=4 * (5 / 8 * 3 / 8 / count) ** 0.5)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"temperature": 1.0, "logprobs": 1}])
def test_a_row_that_has_no_token_says_so_and_its_neighbours_have_theirs(changes: dict[str, Any]) -> None:
    """NaN, and a grammar that leaves nothing, not even the end."""
    logits_RV = random_rows(3)
    logits_RV[0, 9] = np.nan
    masks = [None, bits(only()), None]
    rows = [Row(sequence(**changes), place, mask) for place, mask in enumerate(masks)]

    found = Chooser(VOCABULARY).choose(logits_RV, rows)

    assert found[:2] == [(NO_TOKEN, None), (NO_TOKEN, None)]
    assert found[2][0] >= 0


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"), [(0, 0.5, 0), (1, 0, 0), (0.5, 1, 2), (1e-30, 1, 1e6)]
)
def test_the_scale_is_a_temperatures_inverse_which_float32_can_hold(
    temperature: float, top_p: float, expected: float
) -> None:
    """0: the likeliest is taken."""
    assert scale(temperature, top_p) == pytest.approx(expected)
