"""The data pipelines of the tests' jobs; input workers import them by name."""

from __future__ import annotations

import itertools
import time

import numpy as np


def batches(*_: object):
    """Endless batches of 16 samples for the golden MLP: 32 halves and a label of 10."""
    generator = np.random.default_rng(1)
    while True:
        yield (
            generator.standard_normal((16, 32)).astype(np.float16),
            generator.integers(0, 10, 16).astype(np.int32),
        )


def later_batches(*_: object):
    """The same from the third on."""
    return itertools.islice(batches(), 2, None)


def slow(*_: object):
    """The same, a second for each batch."""
    for batch in batches():
        time.sleep(1.0)
        yield batch


def broken(*_: object):
    """Two batches, and then an error of its own."""
    for index, batch in enumerate(batches()):
        if index == 2:
            raise ValueError("the file of samples ends in the middle of a line")
        yield batch
