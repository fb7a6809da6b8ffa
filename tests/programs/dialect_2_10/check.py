"""Dialect 2.10 widens an integer where every value of its type fits."""

import numpy as np

DIALECT = "2.10"


def check(run, random):
    n = -7
    run.launch("main", np.int16(n))
    total = 1_000_000 + n
    assert run.get("out", 3, np.int32).ravel().tolist() == [total, n + 1, n * total + 200]
