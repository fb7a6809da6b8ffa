"""f16 arithmetic rounds once; DSD operations with f32 results keep what f16 would lose."""

import numpy as np


def check(run, random):
    a, b = random.normal(size=(2, 16)).astype(np.float16)
    run.put("a", a)
    run.put("b", b)
    run.launch("main")
    out = run.get("out", 96, np.float16).reshape(6, 16)
    single = a.astype(np.float32)
    expected = [
        a + b,
        a * b,
        a - np.float16(0.5),
        np.maximum(a, b),
        a * b + np.float16(1),
        single / np.float32(3),
    ]
    for row, want in enumerate(expected):
        np.testing.assert_array_equal(out[row], want.astype(np.float16), str(row))
    wide = run.get("wide", 48, np.float32).reshape(3, 16)
    np.testing.assert_array_equal(wide[0], single)
    np.testing.assert_array_equal(wide[1], single + b.astype(np.float32))
    np.testing.assert_allclose(wide[2], 3 * single, rtol=1e-6)
