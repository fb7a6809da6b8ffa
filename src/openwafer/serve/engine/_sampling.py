"""A row of logits to a token. By numpy, row after row: a row stays in the processor's own cache from its first pass to its
last, and what comes out of it depends on nothing else.

V tokens of the vocabulary, C chunks of a row, K candidates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from openwafer.serve.kernels import CHUNK_WEIGHTS, Floats, fold_chunks, heavier, weigh

Doubles = npt.NDArray[np.float64]

_COLDEST = 1e-6
"""Below this temperature nothing but the most likely token has a chance that float32 can hold."""


def uniform(seed: int, choice: int, index: int, trial: int = 0) -> float:
    """A number in [0, 1) for token `index` of a choice: the same whenever and beside whatever the token is drawn."""
    key = hashlib.blake2b(f"{seed},{choice},{index},{trial}".encode(), digest_size=8).digest()
    return (int.from_bytes(key, "little") >> 11) * 2.0**-53


def choose(
    logits_V: Floats, temperature: float, top_p: float, draw: Callable[[int], float], scratch_V: Floats
) -> int:
    """The most likely token at temperature 0 or top_p 0, else where the draws fall; -1 without one finite largest number.

    logits_V may hold -inf where a token must not come. draw: a number in [0, 1) for each trial; there is one, and with
    top_p another for every token that is drawn and lies outside of the nucleus. scratch_V is overwritten; it may be the
    logits themselves.
    """
    likely = int(logits_V.argmax())
    largest = float(logits_V[likely])
    if not math.isfinite(largest):
        return -1
    if temperature <= 0 or top_p <= 0:
        return likely
    weights_V = scratch_V[: len(logits_V)]
    sums_C = weigh(logits_V, largest, 1 / max(temperature, _COLDEST), weights_V)
    running_C = sums_C.cumsum(dtype=np.float64)
    if top_p >= 1:
        return _place_in_row(weights_V, running_C, draw(0))
    return _draw_nucleus(weights_V, running_C, top_p * float(running_C[-1]), draw)


def _draw_nucleus(weights_V: Floats, running_C: Doubles, limit: float, draw: Callable[[int], float]) -> int:
    """A token among the fewest most likely ones whose weights sum up to the limit. Overwrites the weights.

    Sorting a vocabulary takes longer than everything else. A token drawn from all of them is in the nucleus more often than
    not, and to know it takes one sum over those that are more likely. If it is not, only those are drawn from again.
    """
    for trial in range(len(weights_V)):
        token = _place_in_row(weights_V, running_C, draw(trial))
        weight = weights_V[token]
        above = heavier(weights_V, float(weight))
        inside_K: npt.NDArray[np.int64] | slice = slice(0)
        if above < limit:
            equal_V = weights_V == weight
            if np.count_nonzero(equal_V) == 1:
                return token
            inside_K = np.flatnonzero(equal_V)[: math.ceil((limit - above) / float(weight))]
            if token <= inside_K[-1]:
                return token
        # Of equally likely tokens the first ones may be in the nucleus, though this was one of the others.
        inside_V = weights_V > weight
        inside_V[inside_K] = True
        weights_V *= inside_V
        running_C = fold_chunks(weights_V, np.add).cumsum(dtype=np.float64)
    raise AssertionError("every trial leaves fewer tokens")


def _place_in_row(weights_V: Floats, running_C: Doubles, draw: float) -> int:
    """The first token at which the sum of weights exceeds the draw's part of the whole.

    By sums over chunks, then within one: a running sum over a whole vocabulary takes longer and is less exact.
    """
    target = draw * float(running_C[-1])
    chunk = _place(running_C, target)
    within_K = weights_V[chunk * CHUNK_WEIGHTS : (chunk + 1) * CHUNK_WEIGHTS].cumsum(dtype=np.float64)
    return chunk * CHUNK_WEIGHTS + _place(within_K, target - (float(running_C[chunk - 1]) if chunk else 0.0))


def _place(running_K: Doubles, target: float) -> int:
    """Where the running sum exceeds the target; where it reaches its end if rounding left nothing beyond."""
    place = int(running_K.searchsorted(target, side="right"))
    return place if place < len(running_K) else int(running_K.searchsorted(running_K[-1]))
