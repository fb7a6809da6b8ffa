"""Arguments arrive with their types; tiles that share a program still know their places."""

import numpy as np


def check(run, random):
    values = (
        np.int16(-7),
        np.uint16(60000),
        np.int32(-70000),
        np.uint32(1 << 20),
        np.float16(0.5),
        np.float32(2.25),
    )
    run.launch("add", *values)
    run.launch("clear")
    run.launch("add", *values)
    run.launch("add", *values)
    out = run.get("out", 6, np.float32)
    for y in range(2):
        for x in range(2):
            once = [-7, 60000, -70000 + x, (1 << 20) + y, 0.5, 2.25]
            assert out[y, x].tolist() == [2 * value for value in once]
