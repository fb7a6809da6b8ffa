"""Every tile hears from its neighbours in all four directions."""

import numpy as np

PARAMS = ({"size": 2}, {"size": 5})


def check(run, random):
    size = run.width
    value = random.integers(1, 1 << 32, (size, size, 1), dtype=np.uint32)
    run.put("value", value)
    run.launch("main")
    got = run.get("got", 4, np.uint32)
    padded = np.pad(value[:, :, 0], 1)
    inside = slice(1, -1)
    expected = (padded[inside, :-2], padded[inside, 2:], padded[:-2, inside], padded[2:, inside])
    np.testing.assert_array_equal(got, np.stack(expected, axis=2))
