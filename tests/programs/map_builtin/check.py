"""@map calls a function for each element, in order, and may read a variable that it changes."""

import numpy as np


def check(run, random):
    a = (random.normal(size=12) * 20).astype(np.float32)
    weight = np.float32(0.25)
    run.put("a", a)
    run.launch("main", weight)
    out = run.get("out", 36, np.float32).reshape(3, 12)
    root = np.sqrt(abs(a))
    np.testing.assert_array_equal(out[0], root)
    np.testing.assert_allclose(out[1], a + weight * root, rtol=1e-6)
    np.testing.assert_array_equal(out[2], np.add.accumulate(a))
    np.testing.assert_array_equal(run.get("whole", 12, np.int16).ravel(), np.floor(a + 0.5))
