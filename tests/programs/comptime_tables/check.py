"""Whole tables are made by the compiler, and generic functions specialised by type and by value."""

from math import comb

import numpy as np


def check(run, random):
    n = 7
    run.launch("main", np.uint16(n))
    expected = [49, comb(n, 4), 19, n**5, 49, 21, sum(b"wafer"), 10, 120, 258]
    assert run.get("out", 10, np.uint32).ravel().tolist() == expected
