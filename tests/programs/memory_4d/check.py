"""Descriptors of several dimensions walk memory in any affine order, as NumPy's indexing says."""

import numpy as np


def check(run, random):
    a = random.integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    run.put("a", a.ravel())
    run.launch("main")
    out = run.get("out", 200, np.int16).ravel()
    np.testing.assert_array_equal(out[:60], a.transpose(2, 0, 1).ravel())
    np.testing.assert_array_equal(out[60:72], a[1:3, 0:4:2, 1:4].ravel())
    np.testing.assert_array_equal(out[72:84], np.stack([m[range(4), range(4)] for m in a]).ravel())
    spread = np.zeros(116, np.int16)
    spread.reshape(-1)[[10 * i + 2 * j for i in range(4) for j in range(5)]] = a[1].ravel() + 1
    np.testing.assert_array_equal(out[84:], spread)
