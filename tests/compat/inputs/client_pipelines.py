"""Data pipelines of clients, good and bad; workers import them by name under their own interpreter."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time

import numpy as np


class Counting:
    """Batches of consecutive numbers, `batches` an epoch; each sample is its number, three times and once."""

    def __init__(self, batch, batches, dtype="int64"):
        self.batch, self.batches, self.dtype = batch, batches, dtype

    def __iter__(self):
        for index in range(self.batches):
            numbers = np.arange(index * self.batch, (index + 1) * self.batch)
            yield {"x": np.repeat(numbers[:, None], 3, 1).astype(np.float32), "y": numbers.astype(self.dtype)}


class Restartable:
    """An endless walk whose every sample depends on all before it; its state is where it stands."""

    def __init__(self, batch, seed=7):
        self.batch, self.value = batch, seed

    def __iter__(self):
        while True:
            samples = []
            for _ in range(self.batch):
                self.value = (self.value * 1103515245 + 12345) % 2**31
                samples.append(self.value)
            yield {"x": np.zeros((self.batch, 3), np.float32), "y": np.array(samples)}

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state, strict=True):
        self.value = state["value"]

    def aggregate_state_dict(self, states):
        return {f"worker{index}": state for index, state in enumerate(states)}

    def deaggregate_state_dict(self, state, strict=True):
        return state["worker0"]


class Then:
    """Two good batches, then what `act` does."""

    def __init__(self, act):
        self.act = act

    def __iter__(self):
        yield from Counting(4, 2)
        self.act()
        yield from Counting(4, 1000)


def kinds():
    """One tensor of each kind that is laid down differently, nested; 2 is no truth value."""
    import torch

    truth = np.array([True, False, True, True])
    return [
        [
            {
                "half": torch.arange(4).to(torch.bfloat16),
                "deep": [truth, np.arange(4, dtype=np.uint8)],
                "text": "ignored",
            }
        ]
    ]


def ragged():
    return Ragged()


class Ragged:
    """Loaders that forget to drop the last batch, and never give the size that a system takes."""

    def __iter__(self):
        yield from (
            {"x": np.zeros((n, 3), np.float32), "y": np.arange(s, s + n)} for s, n in ((0, 5), (5, 1), (6, 3))
        )


def empty():
    return []


def printing():
    print("a line of the pipeline", os.environ.get("WANTED"))
    return Counting(4, 3)


def slow():
    return Then(lambda: time.sleep(1.5))


def wrong_shape():
    return [{"x": np.zeros((4, 2), np.float32), "y": np.arange(4)}]


def no_y():
    return [{"x": np.zeros((4, 3), np.float32)}]


def doubles(tensor):
    tensor.mul_(2)


def flattens_too_much(tensor):
    return tensor.repeat(2)


def connects(tensor):
    opens_a_socket()


# --- bad ones -----------------------------------------------------------------------------------------------------


def opens_a_socket():
    socket.create_connection(("127.0.0.1", 80))


def reads(path):
    return open(path).read()


def writes(path):
    with open(path, "w") as file:
        file.write("x")


def eats_memory():
    kept = []
    while True:
        kept.append(np.ones(1 << 20))


def eats_shared_memory():
    import mmap

    kept = []
    while True:
        kept.append(mmap.mmap(-1, 1 << 24))
        kept[-1].write(b"x" * (1 << 24))


def forks_without_end():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)


def spins():
    while True:
        pass


def kills_its_parents():
    for pid in (os.getppid(), 1):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def crashes():
    ctypes.string_at(0)


def leaves():
    os._exit(3)


def says_goodbye():
    sys.exit("enough")


def channel():
    return int(sys.argv[1])


def sends_garbage():
    os.write(channel(), b"\x80\x04garbage" * 1000)
    time.sleep(1000)


def sends_an_endless_message():
    os.write(channel(), struct.pack("<cQ", b"E", 1 << 62))
    time.sleep(1000)


def sends_a_pickle():
    payload = b"cos\nsystem\n(S'touch /tmp/owned'\ntR."
    os.write(channel(), struct.pack("<cQ", b"E", len(payload)) + payload)
    time.sleep(1000)


def gives_a_batch_twice():
    for slot in (0, 1):
        os.write(channel(), struct.pack("<cQQI", b"B", 12, 2, slot))
    time.sleep(1000)


def gives_a_slot_that_is_not_there():
    os.write(channel(), struct.pack("<cQQI", b"B", 12, 2, 10**6))
    time.sleep(1000)


def closes_the_channel():
    os.close(channel())
    time.sleep(1000)


def shrinks_the_memory():
    os.ftruncate(int(sys.argv[2]), 0)


def sends_a_state_that_nobody_wants():
    os.write(channel(), struct.pack("<cQQ", b"S", 8, 77))
    time.sleep(1000)
