"""<message_passing>: a random permutation of all tiles at once, then all to one; each message arrives whole."""

import numpy as np

ARCHITECTURES = ("wse3",)
PARAMS = ({"width": 2, "height": 1}, {"width": 4, "height": 3})


def check(run, random):
    width, height = run.params["width"], run.params["height"]
    count = width * height
    for _ in range(2):
        to = random.permutation(count)
        lengths = random.integers(1, 33, count)
        destination = np.stack([to % width, to // width, lengths], -1).astype(np.uint16)
        words = random.integers(0, 2**32, (count, 32), np.uint32)
        halves = random.integers(0, 2**16, (count, 32), np.uint16)
        for name, values in (("destination", destination), ("words", words), ("halves", halves)):
            run.put(name, values.reshape(height, width, -1))
        run.put("got_words", np.zeros(32, np.uint32))
        run.put("got_halves", np.zeros(32, np.uint16))
        run.launch("exchange")

        got = run.get("got_words", 32, np.uint32).reshape(count, 32)
        got_halves = run.get("got_halves", 32, np.uint16).reshape(count, 32)
        for tile in range(count):
            kept = np.arange(32) < lengths[tile]
            assert (got[to[tile]] == np.where(kept, words[tile], 0)).all()
            assert (got_halves[to[tile]] == np.where(kept, halves[tile], 0)).all()

    run.put("collected", np.zeros(32 * count, np.uint32))
    column, row = random.integers(width), random.integers(height)
    run.launch("collect", np.uint16(column), np.uint16(row))

    messages = run.get_at("collected", column, row, 1, 1, 32 * (count - 1), np.uint32).reshape(-1, 32)
    sent = np.where(np.arange(32) < lengths[:, None], words, 0)
    others = np.delete(sent, row * width + column, 0)
    assert sorted(map(tuple, messages)) == sorted(map(tuple, others))
