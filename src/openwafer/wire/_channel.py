"""Channels: ordered one-way streams of frames, and the one way in which every call blocks.

A transport brings three classes: a `Sender`, a `Receiver` and a `Waiter`. None of the first two
ever blocks; links and rings try, and let the waiter sleep until a retry is worth it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openwafer.base import RoleLost, StallError
from openwafer.wire._errors import PeerGone


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a channel runs, as errors name it: `link 'commands'` from `coordinator` to `system0`."""

    label: str
    source: str
    target: str


class Sender(ABC):
    """The writing end of a channel."""

    route: Route

    @abstractmethod
    def push(self, frame: bytes) -> None:
        """Queue a frame; `flush` puts it on its way."""

    @abstractmethod
    def flush(self) -> bool:
        """Move queued frames towards the receiver; False if some had no room. Raises PeerGone."""

    @abstractmethod
    def close(self) -> None:
        """Say that no more will come; the receiver still gets what was flushed."""


class Receiver(ABC):
    """The reading end of a channel."""

    route: Route

    @abstractmethod
    def peek(self) -> bytes | None:
        """The next frame, left in place, or None if none is there now.

        Raises PeerGone when none is left and none will come.
        """

    @abstractmethod
    def drop(self) -> None:
        """Take the frame that `peek` returned off the channel."""

    @abstractmethod
    def close(self) -> None:
        """Refuse further frames; the sender's next flush raises PeerGone."""

    def ready(self) -> bool:
        """True if `peek` would not return None now."""
        try:
            return self.peek() is not None
        except PeerGone:
            return True


CAUSE_S = 0.05
"""How long an abort may lag behind the loss that it explains: a killed process's files are closed in turn."""


class Waiter(ABC):
    """How the calls of one role sleep, and how an abort wakes them."""

    @abstractmethod
    def check(self, within_s: float = 0.0) -> None:
        """Raise Aborted if the transport was aborted or is within that time; costs a few microseconds."""

    @abstractmethod
    def check_travel(self) -> None:
        """Raise InputError unless the ends of this role are being pickled for a spawned child."""

    @abstractmethod
    def wait(self, receivers: Sequence[Receiver], senders: Sequence[Sender], timeout_s: float | None) -> None:
        """Sleep until a receiver may be ready, a sender may have room, or the time is over.

        May return early. Raises Aborted. A KeyboardInterrupt passes through and leaves every
        channel as it was.
        """


class Deadline:
    """A point in time up to which a call may wait; `timeout_s=None` never comes."""

    __slots__ = ("_start", "timeout_s")

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._start = time.monotonic()

    @property
    def waited_s(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._start

    def remaining_s(self) -> float | None:
        """Seconds left, not negative; None for ever."""
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.waited_s)

    def expired(self) -> bool:
        """True once no time is left; at once for `timeout_s=0`."""
        return self.timeout_s is not None and self.waited_s >= self.timeout_s


def take(receiver: Receiver, waiter: Waiter, deadline: Deadline) -> bytes:
    """Wait for the next frame and return it, still on the channel: `drop` it when it is safe.

    Raises Aborted, RoleLost, StallError.
    """
    waiter.check()
    while True:
        try:
            frame = receiver.peek()
        except PeerGone:
            waiter.check(CAUSE_S)  # an abort makes roles leave: it is the cause then, and not their loss
            raise lost(receiver.route, by=receiver.route.target) from None
        if frame is not None:
            return frame
        if deadline.expired():
            route = receiver.route
            raise StallError(
                f"{route.target} waited {deadline.waited_s:.1f} s for {route.source} on {route.label}, "
                f"and nothing came; see what {route.source} is doing, or allow more time"
            )
        waiter.wait((receiver,), (), deadline.remaining_s())


def flush_all(senders: Iterable[Sender], waiter: Waiter, deadline: Deadline) -> None:
    """Wait until every queued frame of every sender is on its way.

    Raises Aborted, RoleLost, StallError; frames that had no room stay queued for the next flush.
    """
    waiter.check()
    left = list(senders)
    while True:
        full = []
        for sender in left:
            try:
                if not sender.flush():
                    full.append(sender)
            except PeerGone:
                waiter.check(CAUSE_S)
                raise lost(sender.route, by=sender.route.source) from None
        left = full
        if not left:
            return
        if deadline.expired():
            route = left[0].route
            raise StallError(
                f"{route.source} waited {deadline.waited_s:.1f} s for {route.target} to read {route.label}, "
                f"which is full; see what {route.target} is doing, or allow more time"
            )
        waiter.wait((), left, deadline.remaining_s())


def lost(route: Route, *, by: str) -> RoleLost:
    """The error for a peer that left: `by` is the end that noticed."""
    peer = route.source if by == route.target else route.target
    return RoleLost(
        f"{by} lost {peer} on {route.label}: its process or thread ended or closed its endpoints; "
        f"look for the cause in the log of {peer}, then resume from the last checkpoint"
    )
