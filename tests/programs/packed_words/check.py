"""Fields of packed structs lie bit by bit from the lowest on; writing one leaves its neighbours as they were."""

import numpy as np

DIALECT = "2.10"
PARAMS = ({"count": 1}, {"count": 20})
WIDTHS = (1, 5, 2, 7, 11, 6)


def split(words):
    shifts = np.cumsum((0, *WIDTHS[:-1]))
    return np.stack([words >> s & (1 << w) - 1 for s, w in zip(shifts, WIDTHS, strict=True)], -1)


def check(run, random):
    count, step = run.params["count"], 27
    words = random.integers(0, 2**32, (1, 2, count), np.uint32)
    run.put("words", words)
    run.launch("main", np.uint16(step))

    parts = split(words.astype(np.int64))
    shown = parts.copy()
    shown[..., 3] = np.where(parts[..., 3] >= 64, parts[..., 3] - 128, parts[..., 3])
    assert (run.get("fields", 6 * count, np.int16) == shown.reshape(1, 2, -1)).all()

    parts += np.array([1, step, 1, -3, 0, 0])
    parts[..., 4] = 2 * parts[..., 4] + 1
    parts[..., 5] = ~parts[..., 5]
    expected = np.zeros(words.shape, np.int64)
    for place, width in reversed(list(enumerate(WIDTHS))):
        expected = expected << width | parts[..., place] & (1 << width) - 1
    assert (run.get("words", count, np.uint32) == expected.astype(np.uint32)).all()
