"""Range filters deal a numbered stream out: each tile gets the wavelets whose index lies in its range."""

import numpy as np

PARAMS = ({"width": 3, "each": 8}, {"width": 8, "each": 5})


def check(run, random):
    receivers, each = run.width - 1, int(run.params["each"])
    a = random.integers(0, 1 << 16, (1, 1, receivers * each), dtype=np.uint16)
    run.put_at("a", 0, 0, a)
    run.launch("main")
    got = run.get_at("a", 1, 0, receivers, 1, each, np.uint16)
    np.testing.assert_array_equal(got, a.reshape(1, receivers, each))
