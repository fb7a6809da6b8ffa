"""on_control ends an operation early, and what ends at its end still happens."""

import numpy as np


def check(run, random):
    for length in (7, 20):
        words = random.integers(0, 1 << 32, (1, 1, 50), dtype=np.uint32)
        run.put_at("a", 0, 0, words)
        before = run.get_at("a", 1, 0, 1, 1, 50, np.uint32).ravel()
        run.launch("main", np.uint16(length))
        after = run.get_at("a", 1, 0, 1, 1, 50, np.uint32).ravel()
        np.testing.assert_array_equal(after[:length], words.ravel()[:length])
        np.testing.assert_array_equal(after[length + 1 :], before[length + 1 :])
