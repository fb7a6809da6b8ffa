"""math.subsat: integers end at the ends of their type, floats at their largest finite number."""

import numpy as np


def clipped(x, y, dtype):
    ends = np.iinfo(dtype)
    return np.clip(x.view(dtype).astype(np.int64) - y.view(dtype), ends.min, ends.max).astype(dtype)


def floats(x, y, dtype):
    x, y = x.view(dtype), y.view(dtype)
    with np.errstate(all="ignore"):
        difference = x - y
        most = np.finfo(dtype).max
        over = np.isinf(difference) & np.isfinite(x) & np.isfinite(y)
        return np.where(over, np.where(x > y, most, -most), difference).astype(dtype)


def check(run, random):
    a, b = random.integers(0, 2**32, (2, 32), np.uint32)
    a[:8], b[:8] = 0x7F7FFFFF, 0xFF7FFBFF  # float32 and float16 differences that overflow
    b[8:12] = a[8:12] ^ 0x80008000
    a[12:16] = 0x80000000
    run.put("a", a.reshape(1, 1, -1))
    run.put("b", b.reshape(1, 1, -1))
    run.launch("main")
    out = run.get("out", 6 * 32, np.uint32).reshape(32, 6).T.copy()

    low_a, low_b = (np.ascontiguousarray(one.view(np.uint16)[::2]) for one in (a, b))
    assert (out[0] == clipped(a, b, np.uint32)).all()
    assert (out[1].view(np.int32) == clipped(a, b, np.int32)).all()
    assert (out[2] == clipped(low_a, low_b, np.uint16)).all()
    assert (out[3].astype(np.uint16).view(np.int16) == clipped(low_a, low_b, np.int16)).all()
    np.testing.assert_array_equal(out[4].view(np.float32), floats(a, b, np.float32))
    np.testing.assert_array_equal(out[5].astype(np.uint16).view(np.float16), floats(low_a, low_b, np.float16))
