"""Rows of logits to tokens, by every instruction set and by NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openwafer.serve.kernels import (
    DRAW_AGAIN,
    NO_TOKEN,
    NOTHING_LEFT,
    Chosen,
    Floats,
    Level,
    address,
    choose,
    draw_again,
    levels,
)

LEVELS = pytest.mark.parametrize("level", levels())
DRAWS = (np.arange(4000) + 0.5) / 4000


def ask(
    logits_V: Floats,
    level: Level,
    *,
    mask_V: np.ndarray | None = None,
    scale: float = 0.0,
    top_p: float = 1.0,
    draw: float = 0.0,
    weights_V: Floats | None = None,
    told_V: Floats | None = None,
    tops: int = -1,
) -> Chosen:
    """One row, by arrays: a mask of booleans; what is told is of the row itself unless another is given."""
    mask = None if mask_V is None else np.packbits(mask_V, bitorder="little").tobytes()
    room = 0 if weights_V is None else address(weights_V)
    told = address(logits_V if told_V is None else told_V)
    (found,) = choose(len(logits_V), [(address(logits_V), mask, scale, top_p, draw, room, told, tops)], level)
    return found


def drawn(
    logits_V: Floats, top_p: float, draw: Callable[[int], float], level: Level, scale: float = 1.0
) -> int:
    """A token, drawn again until one is inside of top_p."""
    weights_V = np.empty_like(logits_V)
    token, limit, *_ = ask(logits_V, level, scale=scale, top_p=top_p, draw=draw(0), weights_V=weights_V)
    trial = 0
    while token == DRAW_AGAIN:
        trial += 1
        token = draw_again(weights_V, limit, draw(trial), level)
    return token


def row(count: int, seed: int = 0, spread: float = 4) -> Floats:
    numbers = np.random.default_rng(count + seed).standard_normal(count)
    return (numbers * spread).astype(np.float32)


@LEVELS
@pytest.mark.parametrize("count", [3, 8, 512, 600, 1030])
def test_the_first_of_equal_logits_is_the_likeliest(level: Level, count: int) -> None:
    """Also where it lies in the row's last numbers, and where a mask hides the ones before it."""
    logits_V = np.zeros(count, dtype=np.float32)
    logits_V[[1, -1]] = 5
    mask_V = np.random.default_rng(0).random(count) < 1 / 3
    mask_V[1], mask_V[-1] = False, True

    assert ask(logits_V, level)[0] == 1
    assert ask(logits_V, level, mask_V=mask_V)[0] == count - 1


@LEVELS
@pytest.mark.parametrize("count", [4, 40, 1000])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_row_that_is_no_row_of_logits_has_no_token(
    level: Level, count: int, place: int, scale: float
) -> None:
    """NaN wherever it is, also behind a mask; infinity; and a mask that leaves nothing, which is told from these."""
    nan_V, infinite_V, room_V = row(count), row(count), np.empty(count, dtype=np.float32)
    nan_V[place], infinite_V[place] = np.nan, np.inf
    hidden_V, nothing_V = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    hidden_V[place] = False

    def token(logits_V: Floats, mask_V: np.ndarray | None = None, tops: int = -1) -> int:
        return ask(logits_V, level, mask_V=mask_V, scale=scale, weights_V=room_V, tops=tops)[0]

    assert token(nan_V) == token(nan_V, hidden_V) == token(nan_V, tops=2) == NO_TOKEN
    assert token(infinite_V) == token(infinite_V, tops=2) == token(infinite_V, hidden_V, 2) == NO_TOKEN
    assert token(infinite_V, hidden_V) >= 0
    assert token(row(count), nothing_V) == NOTHING_LEFT
    assert token(np.full(count, -np.inf, dtype=np.float32)) == NOTHING_LEFT


@LEVELS
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [3, 17, 512, 513, 3003])
def test_weights_are_powers_of_e(level: Level, count: int, masked: bool) -> None:
    """To a few units in float32's last place; what no number can hold, -inf and what is masked are exactly 0.

    In place and in other memory alike, and the logits stay as they are where the room is elsewhere.
    """
    logits_V, weights_V = row(count, spread=30), np.empty(count, dtype=np.float32)
    logits_V[count // 2] = -np.inf
    mask_V = np.random.default_rng(1).random(count) < 1 / 3
    mask_V[0] = True
    finite_V = (mask_V if masked else np.ones(count, dtype=bool)) & np.isfinite(logits_V)
    kept_V = np.where(finite_V, logits_V, -np.inf).astype(np.float64)
    before_V, in_place_V = logits_V.copy(), logits_V.copy()

    for of, into in ((logits_V, weights_V), (in_place_V, in_place_V)):
        ask(of, level, mask_V=mask_V if masked else None, scale=0.7, weights_V=into)

    expected_V = np.exp((kept_V - kept_V.max()) * np.float32(0.7))
    assert weights_V == pytest.approx(expected_V, rel=2e-5, abs=1e-37)
    assert (weights_V[~finite_V] == 0).all()
    assert (in_place_V == weights_V).all()
    assert (logits_V == before_V).all()


@LEVELS
@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3, 0.05])
@pytest.mark.parametrize("vocabulary", [6, 300, 1200])
def test_tokens_come_as_often_as_their_chances_say(level: Level, top_p: float, vocabulary: int) -> None:
    """Draws from 0 to 1 in even steps give each token its share within the nucleus, and others never come.

    A token outside of it is drawn again by draws of their own.
    """
    logits_V = row(vocabulary, spread=2)
    logits_V[3] = -np.inf
    logits_V[4] = logits_V[5]
    chances_V = np.exp(logits_V.astype(np.float64) / 0.8)
    chances_V /= chances_V.sum()
    order_V = np.argsort(-chances_V, kind="stable")
    count = int((chances_V[order_V].cumsum() < top_p).sum()) + 1 if top_p < 1 else vocabulary
    expected_V = np.zeros(vocabulary)
    expected_V[order_V[:count]] = chances_V[order_V[:count]] / chances_V[order_V[:count]].sum()
    again = np.random.default_rng(0)

    tokens = [
        drawn(logits_V, top_p, lambda trial, first=first: again.random() if trial else first, level, 1 / 0.8)
        for first in DRAWS
    ]

    shares_V = np.bincount(tokens, minlength=vocabulary) / len(DRAWS)
    assert (np.abs(shares_V - expected_V) <= 5 * np.sqrt(expected_V / len(DRAWS)) + 4 / len(DRAWS)).all()
    assert set(tokens) <= set(order_V[:count].tolist())


@LEVELS
def test_of_equally_likely_tokens_the_first_are_in_the_nucleus(level: Level) -> None:
    """Half of ten equal ones are five, and each of them comes."""
    random = np.random.default_rng(0)
    logits_V = np.zeros(10, dtype=np.float32)

    assert {drawn(logits_V, 0.5, lambda _: random.random(), level) for _ in range(200)} == set(range(5))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100), st.integers(500, 1100), st.floats(0, 1, exclude_max=True))
def test_every_level_draws_the_token_at_the_draws_place(seed: int, vocabulary: int, draw: float) -> None:
    """That of float64's running sum, whatever the length of the last chunk, unless the draw falls on a border of two."""
    logits_V = row(vocabulary, seed, spread=2)
    logits_V[seed % 7 :: 2] = -np.inf
    running_V = np.exp(logits_V.astype(np.float64)).cumsum()
    running_V /= running_V[-1]
    assume(np.abs(running_V - draw).min() > 5e-5)

    tokens = {drawn(logits_V, 1.0, lambda _: draw, level) for level in levels()}

    assert tokens == {int(running_V.searchsorted(draw, side="right"))}


@LEVELS
@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-53])
def test_the_ends_of_a_row_can_be_drawn(level: Level, draw: float) -> None:
    """The first and the last token that may come, and none beyond."""
    logits_V = np.zeros(1030, dtype=np.float32)
    logits_V[[0, 1, -1, -2]] = -np.inf

    assert drawn(logits_V, 1.0, lambda _: draw, level) == (2 if draw == 0 else 1027)


@LEVELS
@pytest.mark.parametrize("vocabulary", [5, 700, 3000])
@pytest.mark.parametrize("tops", [0, 1, 5, 20])
def test_the_most_likely_are_told_with_their_probabilities(level: Level, vocabulary: int, tops: int) -> None:
    """As many as wanted, or all that there are; of equal ones the first; of the row that is told, not of that which is
    chosen from."""
    logits_V = np.round(row(vocabulary, tops))
    changed_V = logits_V.copy()
    changed_V[3] = 100
    wide_V = logits_V.astype(np.float64)
    expected_V = wide_V - (wide_V.max() + np.log(np.exp(wide_V - wide_V.max()).sum()))

    token, _, whole, likely = ask(changed_V, level, told_V=logits_V, tops=tops)

    order = np.argsort(-logits_V, kind="stable")[:tops].tolist()
    assert token == 3
    assert [of for of, _ in likely] == order
    assert [p for _, p in likely] == pytest.approx([expected_V[of] for of in order], abs=1e-5)
    assert float(logits_V[3]) - whole == pytest.approx(expected_V[3], abs=1e-5)


@LEVELS
def test_many_rows_at_once_are_what_they_are_alone(level: Level) -> None:
    """So many that threads share them; with and without a draw, a mask and what is told."""
    vocabulary, rows = 100_000, [row(100_000, seed) for seed in range(48)]
    mask = np.packbits(np.arange(vocabulary) % 3 > 0, bitorder="little").tobytes()
    asked = []
    rooms = [np.empty(vocabulary, dtype=np.float32) for _ in rows]
    for i, (logits_V, room_V) in enumerate(zip(rows, rooms, strict=True)):
        at = address(logits_V)
        how = (mask if i % 2 else None, 0.8 if i % 3 else 0.0, 0.9 if i % 5 else 1.0, i / 48)
        asked.append((at, *how, address(room_V), at, 4 if i % 4 else -1))

    together = choose(vocabulary, asked, level)

    assert together == [choose(vocabulary, [one], level)[0] for one in asked]
    assert all(token >= 0 or token == DRAW_AGAIN for token, *_ in together)


@pytest.mark.parametrize("level", levels()[1:])
def test_a_mask_that_is_too_short_is_refused(level: Level) -> None:
    """What lies behind it in memory is nobody's."""
    logits_V = row(100)

    with pytest.raises(ValueError, match="fewer bits than the vocabulary"):
        choose(100, [(address(logits_V), bytes(12), 0.0, 1.0, 0.0, 0, 0, -1)], level)
