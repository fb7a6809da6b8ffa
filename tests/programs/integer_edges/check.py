"""Wrap-around, truncating division, shifts and conversions of every integer width."""

import numpy as np


def check(run, random):
    n, m = -100_003, 9
    run.launch("main", np.int32(n), np.uint16(m))
    small = (n + 128) % 256 - 128
    quotient = -(-n // 3)
    long = (n * n * 1000) % 2**64
    expected = [
        (250 + m) % 256,
        (32767 + m) % 65536,
        quotient,
        n - 3 * quotient,
        n >> 1,
        (n % 2**32) >> 1,
        -n,
        ~n,
        n * n,
        small << m,
        long,
        long >> 32,
        (m << 40) >> 32,
        (m << 40) - 1,
        1,
        0,
        int(-2.75 * m),
        int(np.array(n, np.float32).view(np.uint32)),
        (small % 65536) ^ m,
        1,
    ]
    out = run.get("out", 20, np.uint32).ravel().tolist()
    assert out == [value % 2**32 for value in expected]
