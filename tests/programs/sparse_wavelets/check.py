"""A data task of two arguments gets a wavelet's data and its index."""

import numpy as np


def check(run, random):
    x = np.zeros(12, np.int16)
    x[[1, 4, 5, 11]] = -3, 7, 100, -1
    A = random.integers(-50, 50, (6, 12)).astype(np.int16)
    run.put_at("x", 0, 0, x.reshape(1, 1, 12))
    run.put_at("A", 1, 0, A.reshape(1, 1, 72))
    run.launch("main", np.uint16(4))
    np.testing.assert_array_equal(run.get_at("y", 1, 0, 1, 1, 6, np.int16).ravel(), A @ x)
