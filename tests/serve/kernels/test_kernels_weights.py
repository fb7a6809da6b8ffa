"""Weights of a row, by every instruction set: what tokens are drawn by."""

from __future__ import annotations

import numpy as np
import pytest

from openwafer.serve.kernels import CHUNK_WEIGHTS, Level, heavier, levels, weigh


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("count", [1, 17, CHUNK_WEIGHTS, CHUNK_WEIGHTS + 1, 3000])
def test_weights_are_powers_of_e_with_their_sums(level: Level, count: int) -> None:
    """To a few units in float32's last place; what no number can hold, and -inf, is exactly 0, and is never drawn."""
    logits_V = np.random.default_rng(count).standard_normal(count).astype(np.float32) * 30
    logits_V[count // 2] = -np.inf
    logits_V[0] = largest = np.float32(np.abs(logits_V[np.isfinite(logits_V)]).max(initial=1))
    weights_V = np.empty(count, dtype=np.float32)

    sums_C = weigh(logits_V, float(largest), 0.7, weights_V, level)

    expected_V = np.exp((logits_V.astype(np.float64) - largest) * np.float32(0.7))
    assert weights_V == pytest.approx(expected_V, rel=2e-5, abs=1e-37)
    assert (weights_V[logits_V == -np.inf] == 0).all()
    chunks = [weights_V[i : i + CHUNK_WEIGHTS].sum(dtype=np.float64) for i in range(0, count, CHUNK_WEIGHTS)]
    assert sums_C == pytest.approx(np.array(chunks), rel=1e-6)


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("count", [1, 63, 64, 3001])
def test_what_is_heavier_is_summed_and_what_is_equal_is_not(level: Level, count: int) -> None:
    """Of equal weights none is above the other."""
    weights_V = np.random.default_rng(count).random(count).astype(np.float32)
    weights_V[::3] = weight = weights_V[0]

    assert heavier(weights_V, float(weight), level) == pytest.approx(
        float(weights_V[weights_V > weight].sum(dtype=np.float64)), rel=1e-6, abs=1e-7
    )
