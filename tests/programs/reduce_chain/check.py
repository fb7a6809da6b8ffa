"""A pipelined reduction adds in the order of the tiles, bit for bit."""

import numpy as np

PARAMS = ({"width": 2}, {"width": 7}, {"width": 16})


def check(run, random):
    a = random.normal(size=(1, run.width, 50)).astype(np.float32)
    for scale in (1, 3):
        run.put("a", a * np.float32(scale))
        run.launch("main")
        total = a[0, 0] * np.float32(scale)
        for part in a[0, 1:]:
            total = total + part * np.float32(scale)
        np.testing.assert_array_equal(run.get_at("sum", run.width - 1, 0, 1, 1, 50, np.float32)[0, 0], total)
