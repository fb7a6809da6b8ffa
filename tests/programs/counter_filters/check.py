"""A counter filter lets every n-th word in, and keeps its count from one launch to the next."""

import numpy as np

PARAMS = ({"width": 3}, {"width": 5})


def check(run, random):
    receivers = run.width - 1
    for _ in range(2):
        words = random.integers(0, 1 << 32, (6, receivers), dtype=np.uint32)
        run.put_at("a", 0, 0, words.reshape(1, 1, -1))
        run.launch("main")
        np.testing.assert_array_equal(run.get_at("a", 1, 0, receivers, 1, 6, np.uint32)[0], words.T)
