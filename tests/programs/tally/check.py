"""The end is found exactly when all tiles are complete and all events counted, and only on the last tile."""

import numpy as np

PARAMS = ({"width": 1, "height": 1}, {"width": 3, "height": 1}, {"width": 4, "height": 5})


def check(run, random):
    run.launch("main")
    total = run.stream_out(10, run.width - 1, 0, 1, 1, 1, np.uint32).item()
    assert total == 10 * run.width * run.height
    finished = run.get("counts", 2, np.uint32)[:, :, 1]
    assert finished[0, -1] == 1
    assert finished.sum() == 1
