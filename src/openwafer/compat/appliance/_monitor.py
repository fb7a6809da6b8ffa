"""Tells the client of a failure as soon as it happens: it always has a long poll waiting for one."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple, final

from openwafer.base import (
    CheckpointError,
    InputError,
    NumericsError,
    RoleError,
    RoleLost,
    StallError,
    StorageError,
)

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (StallError, "WS_RT_STALL_DETECTED"),
    (RoleLost, "WS_RT_CRASH_DETECTED"),
    (RoleError, "WS_RT_CRASH_DETECTED"),
    (NumericsError, "WS_RT_INTERNAL_ERROR"),
    (CheckpointError, "WS_RT_CORRUPTION_DETECTED"),
    (StorageError, "WS_RT_INTERNAL_ERROR"),
    (InputError, "WS_RT_INTERNAL_ERROR"),
)
_TASKS = {"input": "WRK", "system": "ACT", "memoryx": "WGT", "coordinator": "CRD"}


class Verdict(NamedTuple):
    code: str
    message: str
    task: str = "CRD"


CLEAN = Verdict("WS_RT_MONITOR_CLEAN", "nothing has failed")
RELIEVED = Verdict("WS_RT_SUCCESS", "another poll has taken over")


def verdict_of(error: BaseException) -> Verdict:
    """A failure in the client's terms: the code, the text, and the kind of task where it happened."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "WS_RT_INTERNAL_ERROR")
    text = str(error) or type(error).__name__
    task = next((task for role, task in _TASKS.items() if text.startswith(role)), "CRD")
    return Verdict(code, text, task)


@final
class Monitor:
    """One failure at most, told to every poll from then on. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._failure: Verdict | None = None
        self._polls = self._releases = 0
        self._closed = False

    @property
    def failure(self) -> Verdict | None:
        return self._failure

    def fail(self, verdict: Verdict) -> None:
        """The first failure counts; what follows from it does not."""
        with self._changed:
            self._failure = self._failure or verdict
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> Verdict:
        """The failure; RELIEVED as soon as another poll waits too; CLEAN after `timeout_s`, or when nothing can fail any more."""
        with self._changed:
            self._polls += 1
            mine, releases = self._polls, self._releases
            self._changed.notify_all()
            end = time.monotonic() + timeout_s
            while (
                self._failure is None
                and self._polls == mine
                and self._releases == releases
                and not self._closed
            ):
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            if self._failure is not None:
                return self._failure
            # A poll that was relieved sleeps before it looks up again; one that was let go does so at once.
            return RELIEVED if self._polls != mine and self._releases == releases else CLEAN

    def release(self) -> None:
        """Let the polls that wait go, as nothing has failed: a client that has finished its run waits for them."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let every poll go, also those to come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
