"""A multicast in the routers reaches every tile of the rectangle."""

import numpy as np

PARAMS = ({"width": 4, "height": 1}, {"width": 1, "height": 5}, {"width": 16, "height": 16})


def check(run, random):
    a = random.normal(size=32).astype(np.float32)
    run.put_at("a", 0, 0, a.reshape(1, 1, 32))
    run.launch("main")
    np.testing.assert_array_equal(
        run.get("a", 32, np.float32), np.broadcast_to(a, (run.height, run.width, 32))
    )
