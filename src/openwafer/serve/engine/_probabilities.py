"""What the model thought of a token, and of the most likely ones in its place.

V tokens of the vocabulary, C chunks of a row, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from openwafer.serve.engine._request import TokenProbability
from openwafer.serve.kernels import Floats, fold_chunks, weigh


def probability(logits_V: Floats, token: int, top: int, scratch_V: Floats) -> TokenProbability:
    """The token's probability, and `top` of the most likely ones, equal ones in their order. scratch_V is overwritten."""
    maxima_C = fold_chunks(logits_V, np.maximum)
    largest = maxima_C.max()
    whole = float(largest) + math.log(
        float(weigh(logits_V, float(largest), 1.0, scratch_V[: len(logits_V)]).sum(dtype=np.float64))
    )
    return TokenProbability(
        token,
        float(logits_V[token]) - whole,
        tuple((t, float(logits_V[t]) - whole) for t in _most_likely(logits_V, maxima_C, top)),
    )


def _most_likely(logits_V: Floats, maxima_C: Floats, count: int) -> Sequence[int]:
    """The chunks with the largest maxima hold the largest numbers, and nothing below the last of those maxima is needed."""
    if count == 0:
        return ()
    least = np.partition(maxima_C, -count)[-count] if count <= len(maxima_C) else -np.inf
    candidates_K = np.flatnonzero(logits_V >= least)
    order_K = np.argsort(-logits_V[candidates_K], kind="stable")[:count]
    found: list[int] = candidates_K[order_K].tolist()
    return found
