"""A file descriptor with one owner, which travels to a spawned child and to nobody else."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from multiprocessing import context, reduction
from typing import Any

from openwafer.base import InputError

TRAVEL_RULE = (
    "endpoints travel only as arguments of a Process of the spawn start method; "
    "they cannot be pickled into a file, a queue or a message"
)

_living: weakref.WeakSet[Descriptor] = weakref.WeakSet()


class Descriptor:
    """Owns an open file descriptor; closes it on `close()` or when collected.

    Pickled as an argument of a spawned `Process`, the child gets its own copy. A forked child
    (a data loader's worker, say) loses it at once: a copy held there would hide the death of
    its parent from everybody who waits for the end of the stream.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        _living.add(self)

    @property
    def closed(self) -> bool:
        """True once `close()` was called here."""
        return self._fd < 0

    def fileno(self) -> int:
        """The descriptor's number. Raises InputError after `close()`."""
        if self._fd < 0:
            raise InputError(
                "this end of the transport was closed here, or went to the process of its role; "
                "use the endpoints in that process only, and before close()"
            )
        return self._fd

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[Any], Descriptor], tuple[Any]]:
        if context.get_spawning_popen() is None:
            raise InputError(TRAVEL_RULE)
        return _arrive, (reduction.DupFd(self.fileno()),)


def _arrive(travelling: Any) -> Descriptor:
    return Descriptor(travelling.detach())


def _close_after_fork() -> None:
    for descriptor in list(_living):
        descriptor.close()


os.register_at_fork(after_in_child=_close_after_fork)
