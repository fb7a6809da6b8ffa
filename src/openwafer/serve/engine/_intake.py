"""Requests on their way to the engine's thread: a bounded queue's door, cancellations, and the end of the day."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import final

from openwafer.base import EngineError, QueueFullError
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._sequence import Group
from openwafer.serve.engine._statistics import Meter


@final
class Intake:
    """What other threads and the engine's both touch, under one lock. Every request that is admitted is open until it ends."""

    def __init__(self, limits: Limits, meter: Meter) -> None:
        self._limits = limits
        self._meter = meter
        self._changed = threading.Condition(threading.RLock())
        self._came: list[Group] = []
        self._cancelled: list[Group] = []
        self._open: dict[int, Group] = {}
        self._waiting = 0
        self._orders = 0
        self._refusal = ""
        self._stop_at: float | None = None
        self._expired = False

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        with self._changed:
            return self._waiting

    # ---- for whoever asks

    def admit(self, make: Callable[[int], Group]) -> Group:
        """The next request, made with its place in the order of arrival.

        Raises QueueFullError if as many wait as may, EngineError if none is taken any more.
        """
        with self._changed:
            if self._refusal:
                raise EngineError(self._refusal)
            if self._waiting >= self._limits.waiting:
                self._meter.add("refused")
                wait_s = self._meter.wait_s(self._waiting)
                raise QueueFullError(
                    f"the queue is full: {self._waiting} requests wait, and there are {self._limits.waiting} places; "
                    f"the last of them waits about {wait_s:.0f} s; come again later",
                    retry_after_s=max(1.0, wait_s / 2),
                )
            group = make(self._orders)
            self._orders += 1
            self._open[group.order] = group
            self._waiting += 1
            self._meter.add("requests")
            return group

    def enter(self, group: Group) -> None:
        """Its sequences are made: the engine's thread may have it."""
        with self._changed:
            self._came.append(group)
            self._changed.notify()

    def cancel(self, group: Group) -> None:
        """Nobody wants its answer any more."""
        with self._changed:
            if group.order in self._open:
                group.cancelled = True
                self._cancelled.append(group)
                self._changed.notify()

    def stop(self, drain_s: float) -> None:
        """Admit no more; in so many seconds, cancel what is still open."""
        with self._changed:
            self._refusal = (
                self._refusal or "the server is stopping and takes no more requests; try another one"
            )
            stop_at = time.monotonic() + drain_s
            self._stop_at = stop_at if self._stop_at is None else min(stop_at, self._stop_at)
            self._changed.notify()

    # ---- for the engine's thread

    def take(self, busy: bool) -> tuple[list[Group], list[Group]] | None:
        """Requests that came and that were cancelled; waits for some unless `busy`. None: all has ended, stop.

        When the time to drain is over, all that is open is cancelled, once; `expired` says so.
        """
        with self._changed:
            while not (self._came or self._cancelled or busy or self._due):
                wait_s = None
                if self._stop_at is not None and not self._expired:
                    wait_s = max(0.0, self._stop_at - time.monotonic())
                self._changed.wait(wait_s)
            came, self._came = self._came, []
            cancelled, self._cancelled = self._cancelled, []
            if self._stop_at is not None and not self._expired and time.monotonic() >= self._stop_at:
                self._expired = True
                cancelled = [*self._open.values()]
                for group in cancelled:
                    group.cancelled = True
            if self._stop_at is not None and not self._open:
                return None
            return came, cancelled

    @property
    def expired(self) -> bool:
        """The time to drain is over."""
        return self._expired

    @property
    def begun(self) -> list[Group]:
        """Open requests that have begun."""
        with self._changed:
            return [group for group in self._open.values() if group.admitted is not None]

    def begin(self, group: Group) -> None:
        """It waits no longer."""
        with self._changed:
            self._waiting -= 1

    def end(self, group: Group) -> None:
        """It has had its last piece."""
        with self._changed:
            del self._open[group.order]
            self._waiting -= group.admitted is None

    def refuse(self, reason: str) -> None:
        """Admit no more, because of this."""
        with self._changed:
            self._refusal = reason

    @property
    def _due(self) -> bool:
        if self._stop_at is None:
            return False
        return not self._open or (not self._expired and time.monotonic() >= self._stop_at)
