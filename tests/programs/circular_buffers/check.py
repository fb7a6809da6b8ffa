"""A circular buffer that saves its address takes a sample after the other; the sum over it is a moving sum."""

import numpy as np

DIALECT = "2.10"
PARAMS = ({"window": 4}, {"window": 7})


def check(run, random):
    window = run.params["window"]
    samples = random.integers(-100, 100, (2, 1, 24)).astype(np.float32)
    matrix = random.integers(0, 2**16, (2, 1, 15), np.uint16)
    run.put("samples", samples)
    run.put("matrix", matrix)
    run.launch("main")

    padded = np.concatenate([np.zeros((2, 1, window), np.float32), samples], -1)
    sums = np.stack([padded[..., i + 1 : i + 1 + window].sum(-1) for i in range(24)], -1)
    assert (run.get("sums", 24, np.float32) == sums).all()
    turned = matrix.reshape(2, 3, 5).transpose(0, 2, 1).reshape(2, 1, 15)
    assert (run.get("turned", 15, np.uint16) == turned).all()
