"""Loops, branches and calls on scalars."""

import numpy as np


def check(run, random):
    run.launch("main", np.int16(20))
    expected = [111, 21, 25, 117 * 1 + 1 * 0, sum(range(20, 0, -3)), 109742, 3 + 2 + 16 + 8, 11]
    expected[3] = 1 * 100 + 18
    expected[5] = ((((10 * 10) + 8) * 10 + 6) * 10 + 4) * 10 + 2
    assert run.get("out", 8, np.uint32).ravel().tolist() == expected
