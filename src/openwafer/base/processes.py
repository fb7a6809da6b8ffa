"""Processes of ours, started afresh, that Ctrl-C does not end: whoever started them tells them when to.

A terminal sends Ctrl-C to all processes that it runs. The signal is blocked from a process's first moment until
`ignore_interrupts`, which is the first thing that it does.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any


def start_process(
    target: Callable[..., None],
    args: tuple[Any, ...],
    name: str,
    *,
    daemon: bool = True,
    with_main: bool = False,
) -> SpawnProcess:
    """Start `target(*args)`, by the spawn start method, in a process that calls `ignore_interrupts` at once.

    daemon: it ends with this process, and has no children. with_main: the program's main module is run in it again, for
    arguments that are of a class or a function defined there.

    Raises what pickle raises for arguments that cannot travel. Where it raises, KeyboardInterrupt included, there is no
    process.
    """
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, name=name, daemon=daemon)
    try:
        with nullcontext() if with_main else _no_main(), _interrupts_blocked():
            process.start()
    except BaseException:
        if process.pid is not None:  # a Ctrl-C that came meanwhile: nobody is going to know of the process
            process.kill()
            process.join()
        raise
    return process


def ignore_interrupts() -> None:
    """In a process of `start_process`: leave Ctrl-C to others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def ending_of(exit_code: int) -> str:
    """How a process ended, in words that go on from its name."""
    if exit_code < 0:
        return f"was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"ended with exit code {exit_code}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started in this block inherits the mask."""
    resource_tracker.ensure_running()  # which unblocks the signal when it starts the tracker
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_main() -> Iterator[None]:
    """Keep multiprocessing from running the main module again."""
    main = sys.modules["__main__"].__dict__
    saved: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(saved)
