"""A blocked data task leaves its wavelet in the queue until the tile is ready for it."""

import numpy as np

PARAMS = ({"width": 1}, {"width": 6})


def check(run, random):
    a = random.integers(-1000, 1000, (1, run.width, 7)).astype(np.int32)
    run.put("a", a)
    run.launch("main")
    np.testing.assert_array_equal(run.get("a", 7, np.int32).ravel(), np.cumsum(a.ravel()))
