"""Lines of text that wait for somebody: of a job's users for each other, and of the job for its client."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import final

_MOST = 10_000
"""Messages that a job's board keeps; more are refused by forgetting the first."""


@final
class MessageBoards:
    """One list of messages for each job, read by place. Thread-safe."""

    def __init__(self) -> None:
        self._messages: dict[str, list[str]] = {}
        self._changed = threading.Condition()

    def add(self, job: str, message: str) -> None:
        with self._changed:
            board = self._messages.setdefault(job, [])
            if len(board) < _MOST:
                board.append(message)
            self._changed.notify_all()

    def length(self, job: str) -> int:
        with self._changed:
            return len(self._messages.get(job, ()))

    def wait(self, job: str, place: int, timeout_s: float) -> list[str]:
        """Messages from `place` on, as soon as there are some; [] after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages.get(job, ())) > place, timeout_s)
            return self._messages.get(job, [])[place:]


@final
class Lines:
    """Lines that one reader takes in order, by long polls. Thread-safe."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST)
        self._changed = threading.Condition()
        self._closed = False

    def add(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def take(self, timeout_s: float) -> str:
        """The next line; "" if none comes within `timeout_s`, or none will come any more."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not self._lines and not self._closed:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._lines.popleft() if self._lines else ""

    def close(self) -> None:
        """Let who waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
