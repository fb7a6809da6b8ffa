"""Links: small messages, one way, in order."""

from __future__ import annotations

import threading
from typing import Any, TypeVar, overload

import msgspec

from openwafer.base import InputError, RoleError
from openwafer.wire._channel import Deadline, Receiver, Route, Sender, Waiter, flush_all, take

T = TypeVar("T")


class Outbox:
    """The sending end of a link. Any thread of its role may send."""

    def __init__(self, sender: Sender, waiter: Waiter) -> None:
        self._sender = sender
        self._waiter = waiter
        self._lock = threading.Lock()

    def send(self, message: object, timeout_s: float | None = None) -> None:
        """Send a message of builtin types, dataclasses or msgspec structs, encoded as msgpack.

        Returns once the message is on its way, not when it was read. It blocks only while
        the link is full (64 KiB unread between processes, never between threads).
        Raises InputError for what msgpack cannot carry, else as `send_bytes`.
        """
        self.send_bytes(encode(message, self._sender.route), timeout_s)

    def send_bytes(self, frame: bytes, timeout_s: float | None = None) -> None:
        """Send raw bytes, which `Inbox.receive_bytes` returns unchanged.

        Raises Aborted, RoleLost if the receiver has gone, StallError after `timeout_s` seconds
        (None: never). After a StallError or a KeyboardInterrupt the message may still
        arrive: what had no room goes out with the next one, and nothing is torn.
        """
        deadline = Deadline(timeout_s)
        with self._lock:
            self._sender.push(frame)
            flush_all((self._sender,), self._waiter, deadline)


class Inbox:
    """The receiving end of a link, for one thread at a time."""

    def __init__(self, receiver: Receiver, waiter: Waiter) -> None:
        self._receiver = receiver
        self._waiter = waiter

    @overload
    def receive(self, timeout_s: float | None = None) -> Any: ...
    @overload
    def receive(self, timeout_s: float | None = None, *, type: type[T]) -> T: ...
    @overload
    def receive(self, timeout_s: float | None = None, *, type: Any) -> Any: ...
    def receive(self, timeout_s: float | None = None, *, type: Any = Any) -> Any:
        """Wait for the next message; decoded as `type`, or as builtin types.

        Raises RoleError if the message is not a `type` (it is dropped), else as `receive_bytes`.
        """
        return decode(self.receive_bytes(timeout_s), type, self._receiver.route)

    def receive_bytes(self, timeout_s: float | None = None) -> bytes:
        """Wait for the next message's bytes.

        Raises Aborted as soon as the transport was aborted, RoleLost when the sender has gone
        and all that it sent was received, StallError after `timeout_s` seconds (None: never;
        0: only look).
        """
        frame = take(self._receiver, self._waiter, Deadline(timeout_s))
        self._receiver.drop()
        return frame

    def poll(self) -> bool:
        """True if `receive` would return or raise RoleLost at once. Raises Aborted."""
        self._waiter.check()
        return self._receiver.ready()


def encode(message: object, route: Route) -> bytes:
    """The msgpack of a message. Raises InputError for what msgpack cannot carry."""
    try:
        return msgspec.msgpack.encode(message)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise InputError(
            f"{route.source} cannot send a {type(message).__name__} on {route.label}: {error}; send builtin "
            "types, dataclasses or msgspec structs, and put tensors into a segment"
        ) from error


def decode(frame: bytes | memoryview, type: Any, route: Route) -> Any:
    """The message in a frame. Raises RoleError if it is not a `type`."""
    try:
        return msgspec.msgpack.decode(frame, type=type)
    except msgspec.MsgspecError as error:
        raise RoleError(
            f"{route.source} sent {route.target} a message on {route.label} that is no "
            f"{getattr(type, '__name__', type)}: {error}; are both ends of the same version?"
        ) from error
