"""The small libraries do what their reference says, at comptime and as the program runs."""

import numpy as np


def check(run, random):
    word = 0xDEADBEEF
    run.launch("main", np.uint32(word))
    out = run.get("out", 12, np.uint32).ravel()
    assert out[:6].tolist() == [0xBEEF, 0xDEAD, 0xD, (1_000_000 + word + 77) % 2**32, 1, 0]
    assert out[6:].view(np.float32).tolist() == [-3.0, 6.0, -3.0, -6.0, -9.0, -12.0]
