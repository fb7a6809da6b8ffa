"""Neighbours keep in step by their messages alone: a tile cannot run ahead of what it has received."""

import numpy as np

PARAMS = ({"size": 2}, {"size": 6})


def check(run, random):
    u = random.normal(size=(run.height, run.width)).astype(np.float32)
    run.put("u", u[:, :, None])
    run.launch("main", np.uint16(8))
    for _ in range(8):
        padded = np.pad(u, 1)
        east, west = padded[1:-1, :-2], padded[1:-1, 2:]
        south, north = padded[:-2, 1:-1], padded[2:, 1:-1]
        u = np.float32(0.25) * (((east + west) + south) + north)
    np.testing.assert_array_equal(run.get("u", 1, np.float32)[:, :, 0], u)
