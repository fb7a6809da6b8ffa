"""Explicit registers hold descriptors; with save_address each operation leaves where the next one begins."""

import numpy as np


def check(run, random):
    a = random.integers(-1000, 1000, 20).astype(np.int16)
    run.put("a", a)
    run.launch("main")
    np.testing.assert_array_equal(run.get("out", 20, np.int16).ravel(), 2 * a)
    assert run.get("total", 1, np.int32).item() == 2 * a.sum()
