"""Two microthreads of the program's choice send and receive at the same time."""

import numpy as np

ARCHITECTURES = ("wse3",)


def check(run, random):
    a = random.normal(size=(1, 2, 40)).astype(np.float32)
    run.put("a", a)
    run.launch("main")
    np.testing.assert_array_equal(run.get("b", 40, np.float32), np.float32(2) * a[:, ::-1] - a)
