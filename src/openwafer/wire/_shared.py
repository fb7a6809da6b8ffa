"""The transport between processes of one host: nameless shared memory and pipes."""

from __future__ import annotations

import threading
from multiprocessing import util

from openwafer.base import PAGE_BYTES
from openwafer.wire._channel import Receiver, Route, Sender
from openwafer.wire._descriptor import Descriptor
from openwafer.wire._pipe import PipeWaiter, open_descriptors, open_pipe, write_reason
from openwafer.wire._segment import Segment
from openwafer.wire._transport import Transport


class SharedTransport(Transport):
    """Connects roles that are spawned processes of this host; a role may also be a thread here.

    Pass `endpoints(role)` to `multiprocessing.get_context("spawn").Process(args=...)`, start all
    of them, then call `started()`. From then on the death of a process, however sudden, is
    RoleLost for its peers, and the death of this one is Aborted for all. Nothing has a
    name in the file system, so nothing is left behind whoever crashes.
    """

    def __init__(self) -> None:
        super().__init__()
        control = Segment.shared("control", PAGE_BYTES)
        abort_read, abort_write = open_descriptors("the abort pipe")
        self._switch = _AbortSwitch(control, abort_write)
        self._shared_waiter = PipeWaiter(control, abort_read)
        self._own: list[Segment | Descriptor] = [control, abort_read]
        # multiprocessing joins its children when this process exits, before it drops our abort
        # pipe: children that wait for us would never end. Its own finalizers run before that.
        util.Finalize(
            self, self._switch.throw, ("the process that owns the transport exited",), exitpriority=100
        )

    def started(self) -> None:
        """Close this process's copies of the ends that went to children.

        Call it after the last `Process.start()`: only the last holder of an end can end a
        stream. Endpoints that were not pickled stay usable here.
        """
        for endpoints in self._bundles.values():
            if endpoints.travelled:
                endpoints.close()

    def _throw(self, reason: str) -> None:
        self._switch.throw(reason)

    def _free(self) -> None:
        super()._free()
        for owned in self._own:
            owned.close()

    def _waiter(self, role: str) -> PipeWaiter:
        return self._shared_waiter

    def _new_segment(self, name: str, nbytes: int) -> Segment:
        return Segment.shared(name, nbytes)

    def _new_channel(self, route: Route) -> tuple[Sender, Receiver]:
        return open_pipe(route)


class _AbortSwitch:
    """Leaves the first abort's reason, then ends the abort pipe, which wakes every process."""

    def __init__(self, control: Segment, abort_write: Descriptor) -> None:
        self._reason = control.buffer
        self._abort_write = abort_write
        self._lock = threading.Lock()

    def throw(self, reason: str) -> None:
        with self._lock:
            if not self._abort_write.closed:
                write_reason(self._reason, reason)
                self._abort_write.close()
