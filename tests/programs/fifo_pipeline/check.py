"""A FIFO between two asynchronous operations keeps the order; a data task takes the words one by one."""

import numpy as np


def check(run, random):
    words = random.integers(0, 1 << 30, (1, 1, 200), dtype=np.uint32)
    run.put_at("a", 0, 0, words)
    run.launch("main")
    np.testing.assert_array_equal(run.get_at("a", 2, 0, 1, 1, 200, np.uint32), 2 * words + 1)
