"""While large packages are imported."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def importing() -> Iterator[None]:
    """Within it no garbage is collected, and a Ctrl-C is raised at its end, as KeyboardInterrupt.

    Large packages take a second or two to import, and some lose the exception while they do: the command would go on.
    Nearly all that they make stays, so that looking for garbage among it is a tenth of that time.
    """
    with _interrupts_wait():
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    came = threading.Event()

    def on_interrupt(signum: int, frame: Any) -> None:
        came.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came.is_set():
        raise KeyboardInterrupt
