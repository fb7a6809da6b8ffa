"""Priorities hold before the program starts and change while it runs; equals take turns."""

import numpy as np


def check(run, random):
    run.launch("main")
    out = run.get("out", 6, np.uint16).ravel()
    assert out[0] == 3
    assert out[3] == 2
    assert sorted(out[:3]) == sorted(out[3:]) == [1, 2, 3]
