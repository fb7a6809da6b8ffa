"""Records come back in order and by key; a line of the log is written when it ends."""

from pathlib import Path

import numpy as np


def check(run, random):
    run.launch("main", np.int16(-3))
    run.stop()
    for x in range(2):
        assert run.trace(x, 0, "values") == [-3, 70000 + x, 0.5, False]
        assert run.trace(x, 0, "notes") == ["begin", "end"]
    log = Path("sim.log").read_text()
    for line in ("42 002A 0000000000000101 1.5", "{x", "PE(1,0): here 100000", "in two parts"):
        assert line in log
    assert "never" not in log
