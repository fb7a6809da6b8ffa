"""The transport between threads of one process: queues and conditions, no file descriptors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from openwafer.base import InputError
from openwafer.wire._channel import Receiver, Route, Sender, Waiter
from openwafer.wire._errors import Aborted, PeerGone
from openwafer.wire._segment import Segment
from openwafer.wire._transport import Transport


class LocalTransport(Transport):
    """Connects roles that are threads of this process.

    A thread leaves no trace when it dies, so run each role inside `with endpoints:`; leaving
    the block is what its peers see as RoleLost. Links between threads are never full.
    """

    def __init__(self) -> None:
        super().__init__()
        self._abort = _AbortFlag()
        self._waiters: dict[str, LocalWaiter] = {}

    def started(self) -> None:
        """Nothing to do between threads."""

    def _throw(self, reason: str) -> None:
        self._abort.throw(reason)

    def _waiter(self, role: str) -> LocalWaiter:
        if role not in self._waiters:
            self._waiters[role] = LocalWaiter(self._abort)
        return self._waiters[role]

    def _new_segment(self, name: str, nbytes: int) -> Segment:
        return Segment.local(name, nbytes)

    def _new_channel(self, route: Route) -> tuple[Sender, Receiver]:
        queue = _Queue(self._waiter(route.target).bell)
        return LocalSender(route, queue), LocalReceiver(route, queue)


class _AbortFlag:
    """The reason of the first abort, and the bells to ring then."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.bells: list[threading.Condition] = []

    def throw(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        for bell in self.bells:
            with bell:
                bell.notify_all()


class LocalWaiter(Waiter):
    """Sleeps on its role's bell, which every sender to the role rings."""

    def __init__(self, abort: _AbortFlag) -> None:
        self._abort = abort
        self.bell = threading.Condition()
        abort.bells.append(self.bell)

    def check(self, within_s: float = 0.0) -> None:
        if self._abort.reason is not None:
            raise Aborted(self._abort.reason)

    def wait(self, receivers: Sequence[Receiver], senders: Sequence[Sender], timeout_s: float | None) -> None:
        with self.bell:
            if self._abort.reason is None and not any(receiver.ready() for receiver in receivers):
                self.bell.wait(timeout_s)
        self.check()

    def check_travel(self) -> None:
        raise InputError(
            "the endpoints of a LocalTransport stay in their process; "
            "use SharedTransport for roles that are processes"
        )


class _Queue:
    """Frames in flight, and who has left."""

    def __init__(self, bell: threading.Condition) -> None:
        self.frames: deque[bytes] = deque()
        self.bell = bell
        self.sender_left = False
        self.receiver_left = False


class LocalSender(Sender):
    """Appends to the queue and rings the receiving role's bell."""

    def __init__(self, route: Route, queue: _Queue) -> None:
        self.route = route
        self._queue = queue
        self._refused = False

    def push(self, frame: bytes) -> None:
        if self._queue.sender_left:
            raise InputError(
                f"{self.route.source} closed its endpoints and cannot use {self.route.label} any more"
            )
        with self._queue.bell:
            if self._queue.receiver_left:
                self._refused = True
            else:
                self._queue.frames.append(frame)
                self._queue.bell.notify_all()

    def flush(self) -> bool:
        if self._refused:
            raise PeerGone
        return True

    def close(self) -> None:
        with self._queue.bell:
            self._queue.sender_left = True
            self._queue.bell.notify_all()


class LocalReceiver(Receiver):
    """Takes from the queue."""

    def __init__(self, route: Route, queue: _Queue) -> None:
        self.route = route
        self._queue = queue

    def peek(self) -> bytes | None:
        if self._queue.receiver_left:
            raise InputError(
                f"{self.route.target} closed its endpoints and cannot use {self.route.label} any more"
            )
        left = self._queue.sender_left  # read before the frames: none comes after it is set
        if self._queue.frames:
            return self._queue.frames[0]
        if left:
            raise PeerGone
        return None

    def drop(self) -> None:
        del self._queue.frames[0]

    def close(self) -> None:
        with self._queue.bell:
            self._queue.receiver_left = True
            self._queue.frames.clear()
