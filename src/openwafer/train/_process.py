"""What a run changes in the user's process while it lasts, and gives back: the handler of Ctrl-C, torch's threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def interruptible(stopping: threading.Event) -> Iterator[None]:
    """The first Ctrl-C sets `stopping`; the second raises KeyboardInterrupt. Changes nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(signum: int, frame: Any) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        # Not through the reporter: the signal may have come in the middle of one of its lines.
        os.write(2, b"\nCtrl-C: ending after the steps in hand, with a checkpoint; once more ends at once\n")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def same_threads_after() -> Iterator[None]:
    """Roles that are threads set torch's number of threads, which later threads of the user's program would inherit."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
