"""Collectives with another root in every row and column, side by side."""

import numpy as np

PARAMS = ({"size": 3}, {"size": 8})


def check(run, random):
    a = random.integers(0, 1 << 32, (run.height, run.width, 1), dtype=np.uint32)
    run.put("a", a)
    run.launch("main")
    np.testing.assert_array_equal(run.get("a", 1, np.uint32), a.transpose(1, 0, 2))
