"""A matrix times a vector, one fused operation for each column."""

import numpy as np


def check(run, random):
    A = random.normal(size=(20, 14)).astype(np.float32)
    x, y = random.normal(size=14).astype(np.float32), random.normal(size=20).astype(np.float32)
    run.put("A", A.T.ravel())
    run.put("x", x)
    run.put("y", y)
    run.launch("main")
    run.launch("main")
    np.testing.assert_allclose(run.get("y", 20, np.float32).ravel(), y + 2 * (A @ x), rtol=1e-5, atol=1e-5)
