"""Means and spreads of <random> are those of the distributions that it names."""

import numpy as np


def check(run, random):
    draws = []
    for seed in (11, 12, 11):
        run.launch("main", np.uint32(seed))
        draws.append(run.get("out", 800, np.float32).ravel())
    uniform, normal = draws[0][:400], draws[0][400:]
    assert uniform.min() >= -1
    assert uniform.max() < 3
    assert abs(uniform.mean() - 1) < 0.2
    assert abs(uniform.std() - 4 / 12**0.5) < 0.15
    assert abs(normal.mean()) < 0.2
    assert abs(normal.std() - 1) < 0.15
    words = run.get("words", 400, np.uint32).ravel()
    assert words.max() < 32
    assert len(set(words.tolist())) == 32
    np.testing.assert_array_equal(draws[0], draws[2])
    assert (draws[0] != draws[1]).any()
