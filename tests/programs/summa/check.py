"""A product of matrices over a square of tiles, by broadcasts in rows and columns at the same time."""

import numpy as np

PARAMS = ({"P": 2}, {"P": 4})
N = 6


def blocks(matrix, P):
    """Tile (row, column) holds its block by columns."""
    return matrix.reshape(P, N, P, N).transpose(0, 2, 3, 1).reshape(P, P, N * N)


def check(run, random):
    P = run.width
    A, B = random.normal(size=(2, P * N, P * N)).astype(np.float32)
    run.put("A", blocks(A, P))
    run.put("B", blocks(B, P))
    run.launch("main")
    np.testing.assert_allclose(run.get("C", N * N, np.float32), blocks(A @ B, P), rtol=1e-4, atol=1e-4)
