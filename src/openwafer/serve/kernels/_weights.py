"""What tokens are drawn by. V tokens of the vocabulary, C chunks of a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from openwafer.serve.kernels._load import Level, native, native_level

CHUNK_WEIGHTS = 512
"""Weights whose sum is told; the last chunk may have fewer."""

Floats = npt.NDArray[np.float32]


def weigh(
    logits_V: Floats, largest: float, scale: float, weights_V: Floats, level: Level | None = None
) -> Floats:
    """exp((logits - largest) * scale) into `weights_V`; returns the sum of each chunk [C]. -inf gives 0.

    Arrays are contiguous, and no logit is above the largest.
    """
    number = native_level(level)
    if native is None or number is None:
        np.subtract(logits_V, np.float32(largest), out=weights_V)
        weights_V *= np.float32(scale)
        np.exp(weights_V, out=weights_V)
        return fold_chunks(weights_V, np.add)
    sums_C = np.empty(-(-len(logits_V) // CHUNK_WEIGHTS), dtype=np.float32)
    native.weigh(
        number, logits_V.ctypes.data, len(logits_V), largest, scale, weights_V.ctypes.data, sums_C.ctypes.data
    )
    return sums_C


def heavier(weights_V: Floats, weight: float, level: Level | None = None) -> float:
    """The sum of the weights that are larger than this one."""
    number = native_level(level)
    if native is None or number is None:
        return float((weights_V * (weights_V > np.float32(weight))).sum())
    return native.heavier(number, weights_V.ctypes.data, len(weights_V), weight)


def fold_chunks(row_V: Floats, fold: np.ufunc) -> Floats:
    """[C]: the sum, the maximum ... of each chunk of a row."""
    whole = len(row_V) - len(row_V) % CHUNK_WEIGHTS
    folded_C: Floats = fold.reduce(row_V[:whole].reshape(-1, CHUNK_WEIGHTS), axis=1)
    if whole < len(row_V):
        folded_C = np.append(folded_C, fold.reduce(row_V[whole:]))
    return folded_C
