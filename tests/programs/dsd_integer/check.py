"""DSD operations on 16-bit integers."""

import numpy as np


def check(run, random):
    a, b = random.integers(0, 1 << 16, (2, 32), dtype=np.uint16)
    a[:3] = 0, 1, 0xFFFF
    run.put("a", a)
    run.put("b", b)
    run.launch("main")
    out = run.get("out", 12 * 32, np.uint16).reshape(12, 32)
    bits = [f"{value:016b}" for value in a]
    expected = [
        a + b,
        a - b,
        a & b,
        a | b,
        a ^ b,
        a << 3,
        a >> 5,
        (a.view(np.int16) >> 5).view(np.uint16),
        np.array([len(text) - len(text.lstrip("0")) for text in bits], np.uint16),
        np.array([len(text) - len(text.rstrip("0")) for text in bits], np.uint16),
        np.array([text.count("1") for text in bits], np.uint16),
        np.full(32, 1234, np.uint16),
    ]
    for row, want in enumerate(expected):
        np.testing.assert_array_equal(out[row], want, str(row))
