"""Wavelets wait at a switch until it turns to them, so that words of many tiles come in order on one color."""

import numpy as np

PARAMS = ({"width": 2}, {"width": 4})


def check(run, random):
    a = random.integers(0, 1 << 32, (1, run.width - 1, 4), dtype=np.uint32)
    run.put_at("a", 0, 0, a)
    run.launch("main")
    got = run.get_at("a", run.width - 1, 0, 1, 1, 4 * run.width, np.uint32)[0, 0, 4:]
    np.testing.assert_array_equal(got.reshape(-1, 4), a[0, ::-1])
