"""All tiles send and receive at once; two buffers keep what goes out apart from what comes in."""

import numpy as np

PARAMS = ({"width": 2}, {"width": 5})


def check(run, random):
    w = run.width
    a = random.integers(0, 1 << 32, (2, w, 18), dtype=np.uint32)
    run.put("a", a)
    run.launch("main", np.uint16(4))
    ring = np.concatenate([a[0, :, :9], a[1, ::-1, :9]])
    moved = np.roll(ring, 4, axis=0)
    expected = np.stack([moved[:w], moved[w:][::-1]])
    np.testing.assert_array_equal(run.get("a", 18, np.uint32)[:, :, :9], expected)
