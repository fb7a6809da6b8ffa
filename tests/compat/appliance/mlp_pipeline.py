"""The data pipelines of the tests' jobs; input workers import them by name."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from pathlib import Path

import numpy as np


def batches(*_: object):
    """Endless batches of 16 samples for the golden MLP: 32 halves and a label of 10."""
    generator = np.random.default_rng(1)
    while True:
        yield (
            generator.standard_normal((16, 32)).astype(np.float16),
            generator.integers(0, 10, 16).astype(np.int32),
        )


def later_batches(*_: object):
    """The same from the third on."""
    return itertools.islice(batches(), 2, None)


def slow(*_: object):
    """The same, a second for each batch."""
    for batch in batches():
        time.sleep(1.0)
        yield batch


def broken(*_: object):
    """Two batches, and then an error of its own."""
    for index, batch in enumerate(batches()):
        if index == 2:
            raise ValueError("the file of samples ends in the middle of a line")
        yield batch


class Restartable:
    """The same from a loader that can say, and take up, how many batches it has given."""

    def __init__(self, *_: object) -> None:
        self.given = 0

    def __iter__(self):
        for batch in itertools.islice(batches(), self.given, None):
            self.given += 1
            yield batch

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state, strict=True):
        self.given = state["given"]

    def aggregate_state_dict(self, states):
        return states[0]

    def deaggregate_state_dict(self, state, strict=True):
        return state


# --- hostile ones: two batches, and then ----------------------------------------------------------------------------


def opens_a_socket(*_: object):
    yield from itertools.islice(batches(), 2)
    socket.create_connection(("127.0.0.1", 80))


def reads_the_accounts(*_: object):
    yield from itertools.islice(batches(), 2)
    Path("/etc/shadow").read_text()


def forks_without_end(*_: object):
    yield from itertools.islice(batches(), 2)
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def eats_memory(*_: object):
    """Asks for more and more; none of it is touched, so that nothing but the limit is in the way."""
    yield from itertools.islice(batches(), 2)
    kept = []
    while True:
        kept.append(np.empty(1 << 30, dtype=np.uint8))


# --- for the golden GPT-2 that measures itself ----------------------------------------------------------------------


def sentences(*_: object):
    """Endless batches of 4 sequences of 16 tokens, what follows each, and which of them count: half a batch for two systems."""
    generator = np.random.default_rng(2)
    while True:
        tokens = generator.integers(0, 512, (4, 17)).astype(np.int32)
        counted = (generator.random((4, 16)) < 0.8).astype(np.float16)
        yield tokens[:, :-1], tokens[:, 1:], counted
