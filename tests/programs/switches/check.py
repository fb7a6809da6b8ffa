"""Control wavelets advance a switch, and a ring of positions begins again."""

import numpy as np

PLACES = ((0, 1), (1, 0), (2, 1), (1, 2))


def check(run, random):
    for _ in range(2):
        words = random.integers(0, 1 << 32, 20, dtype=np.uint32)
        run.put_at("a", 1, 1, words.reshape(1, 1, 20))
        run.launch("main")
        for (x, y), part in zip(PLACES, words.reshape(4, 5), strict=True):
            np.testing.assert_array_equal(run.get_at("a", x, y, 1, 1, 5, np.uint32).ravel(), part)
