"""With color swap the same two colors serve every link of a chain."""

import numpy as np

ARCHITECTURES = ("wse2",)
PARAMS = ({"width": 2}, {"width": 5})


def check(run, random):
    a = random.integers(0, 1 << 20, (1, run.width, 1), dtype=np.uint32)
    run.put("a", a)
    run.launch("main")
    np.testing.assert_array_equal(run.get("a", 1, np.uint32).ravel(), np.cumsum(a.ravel()))
