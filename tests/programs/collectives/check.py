"""Every collective from every root, one after the other on the same colors, and two at a time."""

import numpy as np

PARAMS = ({"width": 1, "height": 1}, {"width": 2, "height": 1}, {"width": 5, "height": 3})
N = 6


def check(run, random):
    w, h = run.width, run.height
    for root in range(w):
        r = np.uint16(root)
        words = random.integers(0, 1 << 32, (h, w, w * N), dtype=np.uint32)
        run.put("all", words)
        run.launch("deal", r)
        part = words[:, root].reshape(h, w, N)
        np.testing.assert_array_equal(run.get("part", N, np.uint32), part)
        part = part + np.uint32(5)
        run.put("part", part)
        run.launch("collect", r)
        np.testing.assert_array_equal(
            run.get_at("all", root, 0, 1, h, w * N, np.uint32)[:, 0], part.reshape(h, w * N)
        )
        run.launch("spread", r)
        expected = np.broadcast_to(part.reshape(h, 1, w * N), (h, w, w * N))
        np.testing.assert_array_equal(run.get("all", w * N, np.uint32), expected)
        values = random.normal(size=(h, w, N)).astype(np.float32)
        run.put("values", values)
        run.launch("add", r)
        got = run.get_at("sum", root, 0, 1, h, N, np.float32)[:, 0]
        np.testing.assert_allclose(got, values.sum(axis=1), rtol=1e-5, atol=1e-5)
    for root in range(h):
        part, column = random.integers(0, 1 << 32, (2, h, w, N), dtype=np.uint32)
        run.put("part", part)
        run.put("column", column)
        run.launch("both", np.uint16(w - 1), np.uint16(root))
        np.testing.assert_array_equal(run.get("part", N, np.uint32), np.repeat(part[:, w - 1 :], w, axis=1))
        np.testing.assert_array_equal(
            run.get("column", N, np.uint32), np.repeat(column[root : root + 1], h, axis=0)
        )
