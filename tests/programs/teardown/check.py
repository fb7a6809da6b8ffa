"""Teardown stops a color in every router behind the data; handlers turn its routes round."""

import numpy as np


def check(run, random):
    a = random.integers(0, 1 << 31, (1, 1, 10), dtype=np.uint32)
    run.put_at("a", 0, 0, a)
    run.launch("main")
    np.testing.assert_array_equal(run.get("a", 10, np.uint32), np.repeat(a + 1, 3, axis=1))
