"""A matrix over many tiles: data tasks multiply as x arrives, then rows add up."""

import numpy as np

PARAMS = ({"width": 1, "height": 2}, {"width": 4, "height": 3}, {"width": 8, "height": 8})
M, N = 4, 6


def check(run, random):
    w, h = run.width, run.height
    A = random.normal(size=(h * M, w * N)).astype(np.float32)
    x = random.normal(size=w * N).astype(np.float32)
    run.put("A", A.reshape(h, M, w, N).transpose(0, 2, 3, 1).reshape(h, w, M * N))
    run.put_at("x", 0, 0, x.reshape(1, w, N))
    run.launch("main")
    y = run.get_at("y", w - 1, 0, 1, h, M, np.float32).ravel()
    np.testing.assert_allclose(y, A @ x, rtol=1e-4, atol=1e-4)
