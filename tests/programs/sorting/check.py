"""Synchronous operations on the fabric wait for the neighbour, so that turns never mix."""

import numpy as np

PARAMS = ({"width": 2}, {"width": 9}, {"width": 16})


def check(run, random):
    value = random.integers(-(1 << 31), 1 << 31, (1, run.width, 1)).astype(np.int32)
    run.put("value", value)
    run.launch("main")
    np.testing.assert_array_equal(run.get("value", 1, np.int32).ravel(), np.sort(value.ravel()))
