"""A FIFO whose empty action is `terminate`: a task takes what there is without asking, until all has come."""

import numpy as np

DIALECT = "2.10"
PARAMS = ({"capacity": 2}, {"capacity": 16})


def check(run, random):
    values = random.standard_normal((1, 1, 50)).astype(np.float32)
    run.put_at("values", 0, 0, values)
    run.launch("main")
    assert (run.get_at("values", 1, 0, 1, 1, 50, np.float32) == values).all()
