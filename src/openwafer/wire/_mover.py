"""How the bytes of slots get from one host to another, apart from the tokens that speak of them."""

from __future__ import annotations

import contextlib
import socket
from abc import ABC, abstractmethod

from openwafer.base import RoleLost


class Mover(ABC):
    """Carries bytes between this host and one other: both ways at once, each way in order.

    The hub tells the other side over its control connection what comes next and how long it is, so that a mover
    needs no headers: the n-th `send` here meets the n-th `receive` there, with as many bytes. One thread sends and
    one receives.
    """

    @abstractmethod
    def send(self, data: memoryview) -> None:
        """Send these bytes; returns when they may change. Raises RoleLost when the other host has or after `end`."""

    @abstractmethod
    def receive(self, into: memoryview) -> None:
        """Fill these bytes with what was sent. Raises RoleLost when the other host has or after `end`."""

    @abstractmethod
    def end(self) -> None:
        """Make blocked and later calls raise RoleLost, within a second. Any thread may call it."""

    @abstractmethod
    def close(self) -> None:
        """Give up what the mover holds, when no call is in progress any more."""


class TcpMover(Mover):
    """Moves bytes over a TCP connection of its own.

    Between CPUs this and not torch.distributed's gloo: on one machine both move about 2 GiB/s, but a gloo transfer that
    has begun ends only with its peer or its timeout, whatever is aborted, and gloo asks nobody for a secret.
    """

    def __init__(self, sock: socket.socket) -> None:
        """The socket, connected and blocking, belongs to the mover from now on."""
        self._socket = sock

    def send(self, data: memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _cut(error) from error

    def receive(self, into: memoryview) -> None:
        done = 0
        while done < len(into):
            try:
                count = self._socket.recv_into(into[done:])
            except OSError as error:
                raise _cut(error) from error
            if not count:
                raise _cut()
            done += count

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.end()
        self._socket.close()


def _cut(error: OSError | None = None) -> RoleLost:
    why = f" ({error.strerror or error})" if error is not None else ""
    return RoleLost(
        f"the connection that carries tensors was cut{why}; see whether openwafer still runs there"
    )
