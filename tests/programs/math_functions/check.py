"""<math> keeps the bounds that its file states, over values of many sizes."""

import numpy as np

EXACT = 0.5000001


def ulps(got, want):
    """The error in units of the last place of the exact result."""
    size = np.maximum(abs(want), 1.1754944e-38).astype(np.float32)
    return abs(got.astype(np.float64) - want) / np.spacing(size)


def check(run, random):
    for scale in (1.0, 30.0, 1e-3) * 8:
        x = np.clip(random.normal(size=64) * scale, -80, 80).astype(np.float32)
        half = (random.normal(size=64) * min(scale, 3.0)).astype(np.float16)
        run.put("x", x)
        run.put("half", half)
        run.launch("main")
        out = run.get("out", 18 * 64, np.float32).reshape(18, 64)
        v = x.astype(np.float64)
        size = abs(v)
        bounds = [
            (np.sqrt(size), EXACT),
            (1 / np.sqrt(size), 0.51),
            (1 / v, EXACT),
            (np.exp(v), 1.0),
            (np.log(size), 1.0),
            (np.sin(v), 2.5),
            (np.cos(v), 2.5),
            (np.tanh(v), 1.5),
            (1 / (1 + np.exp(-v)), 2.5),
            (np.floor(v), 0),
            (np.ceil(v), 0),
            (size**1.5, 2 + 3 * np.max(abs(np.log(size)))),
            (np.fmod(v, 0.75), 0),
        ]
        for row, (want, bound) in enumerate(bounds):
            assert ulps(out[row], want).max() <= bound, (row, scale)
        np.testing.assert_array_equal(out[13], np.maximum(x, np.float32(1)) + np.minimum(x, np.float32(2)))
        np.testing.assert_array_equal(out[14], np.sign(x))
        np.testing.assert_array_equal(out[15], x * 128)
        np.testing.assert_array_equal(out[16], x < 0)
        np.testing.assert_array_equal(out[17], np.full(64, np.float32(np.pi * np.e)))
        narrow = run.get("half_out", 4 * 64, np.float16).reshape(4, 64)
        h = half.astype(np.float64)
        for row, want in enumerate((np.sqrt(abs(h)), np.sin(h), np.exp(h), np.floor(h))):
            error = abs(narrow[row].astype(np.float64) - want)
            assert (error <= 0.51 * np.spacing(abs(want).astype(np.float16)).astype(np.float64)).all(), row
