"""Data wavelets run the data task and control wavelets the task that they name, in the order of their coming."""

import numpy as np

PARAMS = ({"width": 2}, {"width": 6})


def check(run, random):
    run.launch("main")
    out = run.get("out", 3, np.uint32)
    assert out[0, 0].tolist() == [0, 0, 0]
    assert (out[0, 1:] == [sum(range(1000, 1010)), sum(range(10)), 1]).all()
