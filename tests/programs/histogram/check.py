"""Filters look at the index of data wavelets and let control wavelets through."""

import numpy as np

PARAMS = ({"width": 3}, {"width": 7})


def check(run, random):
    bins = 4 * (run.width - 1)
    values = random.integers(0, bins, (1, 1, 100), dtype=np.uint16)
    run.put_at("values", 0, 0, values)
    run.launch("main")
    got = run.get_at("bins", 1, 0, run.width - 1, 1, 4, np.uint32).ravel()
    np.testing.assert_array_equal(got, np.bincount(values.ravel(), minlength=bins))
