"""An operation over n elements takes at least n over the width of the datapath, and not many times that."""

import numpy as np


def check(run, random):
    run.launch("main")
    out = run.get("out", 12, np.uint16).ravel().astype(np.int64)
    before, after, spent = (out[i : i + 3] @ [1, 1 << 16, 1 << 32] for i in (0, 3, 6))
    assert 100 // 4 <= after - before <= 300
    assert 100 // 2 <= spent <= 400
