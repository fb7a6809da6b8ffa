"""Structs are values: a copy is independent, a pointer is not; enumerations carry their numbers."""

import numpy as np


def check(run, random):
    run.launch("main", np.int16(6))
    assert run.get("out", 8, np.int32).ravel().tolist() == [6, 12, 38, 108, 7, 11, 23, 16]
