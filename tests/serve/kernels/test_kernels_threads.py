"""The native threads: several callers, sleeping and waking, forks."""

import contextlib
import subprocess
import sys
import threading
import time

import torch

from openwafer.serve.kernels import Linear, set_threads, threads, torch_alone


def test_several_threads_may_multiply_at_once():
    """Jobs wait for each other, and none sees another's chunks."""
    before = threads()
    set_threads(3)
    torch.manual_seed(0)
    linears = [Linear(torch.randn(4000, 100)) for _ in range(4)]
    x_TK = torch.randn(1, 100)
    expected = [linear(x_TK) for linear in linears]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            if not torch.equal(linears[number](x_TK), expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    set_threads(before)

    assert wrong == []


def test_threads_that_slept_wake_up():
    """Between two requests nothing spins; the next product is whole all the same."""
    before = threads()
    set_threads(2)
    linear, x_TK = Linear(torch.randn(4000, 100)), torch.randn(1, 100)
    expected = linear(x_TK)

    for pause_s in (0.0, 0.0001, 0.0003, 0.001, 0.01) * 20:
        time.sleep(pause_s)
        assert torch.equal(linear(x_TK), expected)
    set_threads(before)


def test_idle_threads_take_no_processor():
    """A server that waits for requests costs nothing."""
    before = threads()
    set_threads(2)
    Linear(torch.randn(4000, 100))(torch.randn(1, 100))
    time.sleep(0.2)

    start = time.process_time()
    time.sleep(0.5)
    used = time.process_time() - start
    set_threads(before)

    assert used < 0.25


def test_a_forked_process_makes_threads_of_its_own():
    """Threads do not survive a fork; a child that waited for them would hang."""
    code = """
import os, torch
from openwafer.serve.kernels import Linear, set_threads
set_threads(2)
linear, x = Linear(torch.randn(4000, 100)), torch.randn(1, 100)
y = linear(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(linear(x), y) else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(linear(x), y)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr


def test_torch_gets_its_threads_back_after_an_error():
    """Else one failed step would leave every prompt after it to one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with contextlib.suppress(ValueError), torch_alone():
            alone = torch.get_num_threads()
            raise ValueError
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

    assert (alone, after) == (1, 2)
