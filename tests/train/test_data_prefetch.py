"""Prefetcher: batches in order, errors in order, and an honest clock."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from openwafer.base import CheckpointError, InputError, StallError
from openwafer.train.data import BatchSource, Prefetcher


class Source(BatchSource):
    """Batch `step` holds the step; `act(step)` runs before it is made."""

    batch_size, samples, steps_per_epoch = 1, None, None

    def __init__(self, act=lambda step: None):
        self.act, self.made = act, []

    def batch(self, step):
        self.act(step)
        self.made.append(step)
        return (torch.tensor([step]),)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_batches_come_in_order_from_the_start_step():
    """A resumed system starts at its checkpoint's step."""
    with Prefetcher(Source(), depth=3, start_step=7) as prefetcher:
        found = [prefetcher.next() for _ in range(20)]

    assert [(step, int(batch[0])) for step, batch in found] == [(step, step) for step in range(7, 27)]


def test_no_more_than_depth_batches_are_made_ahead():
    """The depth bounds the memory that waiting batches take."""
    source = Source()
    with Prefetcher(source, depth=3) as prefetcher:
        wait_until(lambda: len(source.made) == 3)
        time.sleep(0.02)
        assert source.made == [0, 1, 2]

        prefetcher.next()
        wait_until(lambda: len(source.made) == 4)


def test_an_error_arrives_after_the_batches_before_it_and_stays():
    """Steps before the bad record still train; the error keeps its text and names its step."""

    def act(step):
        if step == 2:
            raise ValueError("record 17 is torn")

    with Prefetcher(Source(act), depth=4) as prefetcher:
        wait_until(lambda: not prefetcher._thread.is_alive())
        assert [prefetcher.next()[0], prefetcher.next()[0]] == [0, 1]
        for _ in range(2):
            with pytest.raises(
                InputError, match="step 2: the input pipeline failed: ValueError: record 17"
            ) as caught:
                prefetcher.next()
            assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (CheckpointError("torn"), "^step 0: torn$"),
        (CheckpointError("step 0 is torn"), "^step 0 is torn$"),
        (CheckpointError("step 01 is torn"), "^step 0: step 01 is torn$"),
    ],
)
def test_our_own_errors_keep_their_type_and_name_the_step_once(raised, text):
    """The caller tells errors apart by type."""

    def act(step):
        raise raised

    with Prefetcher(Source(act)) as prefetcher, pytest.raises(CheckpointError, match=text):
        prefetcher.next()


def test_a_source_that_exits_does_not_leave_the_consumer_waiting():
    """sys.exit() in user code ends a thread silently, and would hang the run."""

    def act(step):
        raise SystemExit(3)

    with Prefetcher(Source(act)) as prefetcher, pytest.raises(InputError, match="SystemExit: 3"):
        prefetcher.next(timeout_s=10)


def test_a_late_batch_is_a_stall_that_can_be_waited_out():
    """Nothing waits for ever unless it is asked to, and no batch is lost by asking."""
    gate = threading.Event()
    with Prefetcher(Source(lambda step: gate.wait(10))) as prefetcher:
        with pytest.raises(StallError, match=r"did not deliver step 0 within 0\.01 s"):
            prefetcher.next(timeout_s=0.01)
        gate.set()
        assert prefetcher.next(timeout_s=10)[0] == 0


def test_the_clock_tells_a_slow_source_from_a_slow_consumer():
    """INPUT_STARVATION is reported from wait_s, with the workers that would mend it from produce_s."""
    with Prefetcher(Source(lambda step: time.sleep(0.1)), depth=1) as slow_source:
        for _ in range(3):
            slow_source.next()
        assert slow_source.produce_s >= 0.1
        assert slow_source.total_wait_s >= 0.05
        assert slow_source.batches == 3
        mean_s = slow_source.total_produce_s / 3
        assert slow_source.workers_needed(mean_s / 3.5) == 4
        assert slow_source.workers_needed(mean_s * 2) == 1
        with pytest.raises(InputError, match="measured time of a step"):
            slow_source.workers_needed(0)

    gate = threading.Event()
    source = Source(lambda step: step < 2 or gate.wait(30))
    with Prefetcher(source, depth=2) as prefetcher:
        wait_until(lambda: len(source.made) == 2)
        prefetcher.next()
        assert prefetcher.wait_s < 5  # it was ready, though the source is blocked
        gate.set()


def test_close_joins_the_thread_and_may_be_repeated():
    """A stopped worker leaves no thread reading the data set."""
    prefetcher = Prefetcher(Source(), depth=2)
    prefetcher.next()
    prefetcher.close()
    prefetcher.close()

    assert not prefetcher._thread.is_alive()
    with pytest.raises(InputError, match="closed before step 1"):
        prefetcher.next()


def test_close_does_not_wait_for_ever_for_a_source_that_blocks():
    """A dead file server must not keep the run from ending."""
    gate = threading.Event()
    prefetcher = Prefetcher(Source(lambda step: gate.wait(10)))

    with pytest.raises(StallError, match=r"still busy with a batch after 0\.01 s"):
        prefetcher.close(timeout_s=0.01)
    gate.set()
    prefetcher.close()


@pytest.mark.parametrize("arguments", [{"depth": 0}, {"start_step": -1}])
def test_a_prefetcher_that_could_not_work_is_refused(arguments):
    """A depth of 0 would never have a batch ready."""
    with pytest.raises(InputError, match="need depth >= 1 and start_step >= 0"):
        Prefetcher(Source(), **arguments)
