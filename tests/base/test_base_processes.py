"""Processes that Ctrl-C does not end, from their first moment on."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection

import pytest

from openwafer.base.processes import ending_of, ignore_interrupts, start_process


def wait_for_end(end: Connection) -> None:
    ignore_interrupts()
    end.send("ready")
    end.poll(None)
    sys.exit(3)


def never(_: object) -> None:
    raise AssertionError("nobody knows of this process")


class Interrupting:
    """Sends Ctrl-C to this process when it is pickled, that is, while another one is started with it."""

    def __reduce__(self) -> tuple[type[Interrupting], tuple[()]]:
        os.kill(os.getpid(), signal.SIGINT)
        return Interrupting, ()


def test_ctrl_c_does_not_end_a_process_whenever_it_comes() -> None:
    """Neither while Python starts in it nor afterwards; its end is told in words."""
    ours, theirs = multiprocessing.Pipe()
    process = start_process(wait_for_end, (theirs,), "waiting")
    theirs.close()
    assert process.pid is not None

    os.kill(process.pid, signal.SIGINT)
    assert ours.recv() == "ready"
    os.kill(process.pid, signal.SIGINT)
    ours.close()
    process.join(60)

    assert process.exitcode is not None
    assert ending_of(process.exitcode) == "ended with exit code 3"


def test_ctrl_c_while_a_process_starts_leaves_none() -> None:
    """Whoever wanted it never hears of it, so it cannot be theirs to end."""
    before = multiprocessing.active_children()
    gc.disable()  # Hypothesis has a callback there, in which an exception would be lost

    try:
        with pytest.raises(KeyboardInterrupt):
            start_process(never, (Interrupting(),), "interrupted")
    finally:
        gc.enable()

    assert multiprocessing.active_children() == before


def test_what_does_not_pickle_starts_nothing() -> None:
    """And the program's main module is as it was."""
    main = sys.modules["__main__"].__dict__
    before, saved = (
        multiprocessing.active_children(),
        {name: main.get(name) for name in ("__file__", "__spec__")},
    )

    with pytest.raises((AttributeError, TypeError), match="pickle"):
        start_process(never, (lambda: None,), "unpicklable")

    assert multiprocessing.active_children() == before
    assert {name: main.get(name) for name in saved} == saved


def test_a_killed_process_is_named_by_its_signal() -> None:
    """Users look it up."""
    assert ending_of(-9) == "was killed by signal 9 (SIGKILL)"
