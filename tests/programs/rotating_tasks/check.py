"""Two tasks rotate on one queue: the machine counts starts, so that no task has to."""

import numpy as np

ARCHITECTURES = ("wse3",)
DIALECT = "2.10"
PARAMS = ({"row": 2}, {"row": 9})


def check(run, random):
    row = run.params["row"]
    numbers = random.integers(0, 2**20, (1, 1, 6 * row), np.uint32)
    run.put_at("numbers", 0, 0, numbers)
    run.launch("main")
    sums = run.get_at("numbers", 1, 0, 1, 1, 6, np.uint32)
    assert (sums.ravel() == numbers.reshape(6, row).sum(-1)).all()
