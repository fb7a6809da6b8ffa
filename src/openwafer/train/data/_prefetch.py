"""Prefetcher: batches made ahead of the step that needs them, with the clock on both sides."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType

from openwafer.base import InputError, StallError, WaferError
from openwafer.train.data._batch import Batch
from openwafer.train.data._source import BatchSource


@dataclass(frozen=True, slots=True)
class _Made:
    step: int
    batch: Batch
    produce_s: float


class Prefetcher:
    """A daemon thread that keeps up to `depth` batches of a source ready, from `start_step` on.

    `wait_s` and `produce_s` are measured for the batch that `next` returned last: how long `next`
    waited for it, and how long the source took to make it. `total_wait_s` and `total_produce_s` sum
    them over the `batches` returned so far. One thread may call `next`; leaving the `with` block closes.
    """

    def __init__(self, source: BatchSource, depth: int = 2, start_step: int = 0) -> None:
        """Start making batches at once. Raises InputError if depth < 1 or start_step < 0."""
        if depth < 1 or start_step < 0:
            raise InputError(
                f"prefetch depth {depth} from step {start_step}: need depth >= 1 and start_step >= 0"
            )
        self.wait_s = self.produce_s = self.total_wait_s = self.total_produce_s = 0.0
        self.batches = 0
        self._source, self._depth = source, depth
        self._ready: deque[_Made] = deque()
        self._failure: tuple[int, BaseException] | None = None
        self._closed = False
        self._next_step = start_step
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self._produce, args=(start_step,), name="prefetch", daemon=True
        )
        self._thread.start()

    def next(self, timeout_s: float | None = None) -> tuple[int, Batch]:
        """The next step and its batch; steps follow one another without a gap.

        An error in the source arrives after the batches made before it, as the same WaferError with
        the step before its text, or as an InputError that holds the original's type and text (and the
        original as its cause). It is raised again by every later call.

        Raises StallError if the batch takes longer than `timeout_s`, which may be tried again; InputError
        after `close`.
        """
        begin = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure or self._closed, timeout_s)
            if self._closed:
                raise InputError(
                    f"the prefetcher was closed before step {self._next_step}; make a new one from there"
                )
            if self._ready:
                made = self._ready.popleft()
                self._next_step = made.step + 1
                self._changed.notify_all()
            elif self._failure:
                raise _retold(*self._failure)
            else:
                raise StallError(
                    f"the input pipeline did not deliver step {self._next_step} within {timeout_s} s; "
                    "look for a dataset that blocks, or allow more time"
                )
        self.wait_s, self.produce_s = time.perf_counter() - begin, made.produce_s
        self.total_wait_s += self.wait_s
        self.total_produce_s += self.produce_s
        self.batches += 1
        return made.step, made.batch

    def workers_needed(self, step_s: float) -> int:
        """Input workers that would keep up with steps of `step_s` seconds: ceil(mean produce_s / step_s).

        Assumes that workers do not slow one another down. 1 before the first batch; at least 1 always.
        """
        if step_s <= 0:
            raise InputError(f"a step takes more than {step_s} s; pass the measured time of a step")
        mean_s = self.total_produce_s / max(self.batches, 1)
        return max(1, math.ceil(mean_s / step_s))

    def close(self, timeout_s: float = 60.0) -> None:
        """Stop and join the thread; batches made ahead are dropped. May be called twice.

        Raises StallError if the source is still busy with one batch after `timeout_s`.
        """
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise StallError(
                f"the input pipeline is still busy with a batch after {timeout_s} s; its thread ends with "
                "the process; look for a dataset that blocks"
            )

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StallError:
            if error is None:  # else the error that ended the block is the one to tell
                raise

    def _produce(self, step: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                if self._closed:
                    return
            begin = time.perf_counter()
            try:
                batch = self._source.batch(step)
            except BaseException as error:  # SystemExit too: the consumer must not wait for ever
                with self._changed:
                    self._failure = step, error
                    self._changed.notify_all()
                return
            with self._changed:
                if not self._closed:
                    self._ready.append(_Made(step, batch, time.perf_counter() - begin))
                    self._changed.notify_all()
            step += 1


def _retold(step: int, error: BaseException) -> WaferError:
    told: WaferError
    if isinstance(error, WaferError):
        named = re.search(rf"\bstep {step}\b", str(error))
        told = type(error)(str(error) if named else f"step {step}: {error}")
    else:
        told = InputError(
            f"step {step}: the input pipeline failed: {type(error).__name__}: {error}; the cause above "
            "names the line"
        )
    told.__cause__ = error
    return told
