"""DSD operations on f32: strides, offsets, scalars, a fold."""

import numpy as np


def check(run, random):
    a, b = random.normal(size=(2, 24)).astype(np.float32)
    run.put("a", a)
    run.put("b", b)
    run.launch("main")
    out = run.get("out", 240, np.float32).reshape(10, 24)
    total = np.float32(0)
    for value in a:
        total += value
    expected = [a + b, a - b, a * np.float32(2.5), -a, abs(b), np.maximum(a, b), None, b[::-1]]
    for row, want in enumerate(expected):
        if want is not None:
            np.testing.assert_array_equal(out[row], want, str(row))
    fused = (a.astype(np.float64) + b.astype(np.float64) * 3.0).astype(np.float32)
    np.testing.assert_allclose(out[6], fused, rtol=2e-7)
    np.testing.assert_array_equal(out[8, :12], a[::2] + a[1::2])
    np.testing.assert_array_equal(out[9], np.full(24, total))
