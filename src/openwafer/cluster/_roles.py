"""Start and watch roles: as threads of this process, or as processes of their own."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from openwafer.base import InputError, configure_logs
from openwafer.base.processes import ending_of, ignore_interrupts, start_process
from openwafer.cluster._codec import decode_job
from openwafer.cluster._failures import report_failure
from openwafer.cluster._inputs import BatchFunction, InputWorkerRole
from openwafer.cluster._system import SystemRole
from openwafer.cluster.memoryx import MemoryXRole
from openwafer.wire import Aborted, Endpoints


@dataclass(frozen=True)
class RoleStart:
    """Everything that a role is made of; travels to its process."""

    name: str
    kind: str
    index: int
    job: bytes
    endpoints: Endpoints
    batches: BatchFunction | None = None


def kind_and_index(name: str) -> tuple[str, int]:
    """`system12` is the system 12, `memoryx` the first shard, `memoryx1` the next."""
    kind = name.rstrip("0123456789")
    return kind, int(name[len(kind) :] or 0)


def run_role(start: RoleStart, in_process: bool) -> None:
    """Run a role to its end; what goes wrong is reported to the coordinator and not raised."""
    if in_process:
        ignore_interrupts()  # Ctrl-C is for the coordinator, which then tells everyone
        configure_logs()
        _name_process(start.name)
    with start.endpoints as ends:
        try:
            job = decode_job(start.job)
            role: Any
            if start.kind == "memoryx":
                role = MemoryXRole(job, start.index, ends)
            elif start.kind == "system":
                role = SystemRole(job, start.index, ends)
            else:
                assert start.batches is not None
                role = InputWorkerRole(job, start.index, ends, start.batches)
            role.run()
        except Aborted:
            pass
        except BaseException as error:
            report_failure(start.name, error, ends)


def _name_process(name: str) -> None:
    """What `ps` and `top` show, and by what the appliance tells the memory of roles apart; where there is no such file the
    process goes without."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name[:15])


class RunningRole:
    """One started role."""

    def __init__(self, start: RoleStart, processes: bool) -> None:
        self.name = start.name
        self._thread: threading.Thread | None = None
        self._process: Any = None
        if processes:
            try:
                # The user's data may be defined in the user's main module; no other role needs it.
                self._process = start_process(
                    run_role, (start, True), start.name, with_main=start.batches is not None
                )
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                if start.batches is None:
                    raise
                raise InputError(
                    f"{start.name} cannot be a process of its own, because its data does not pickle ({error}); "
                    "define the dataset's class and functions at the top level of a module, or leave "
                    "input_processes off"
                ) from error
        else:
            self._thread = threading.Thread(
                target=run_role, args=(start, False), name=start.name, daemon=True
            )
            self._thread.start()

    @property
    def alive(self) -> bool:
        return (
            self._process.is_alive()
            if self._process is not None
            else bool(self._thread and self._thread.is_alive())
        )

    @property
    def ending(self) -> str:
        """How a process ended, in words."""
        code = self._process.exitcode if self._process is not None else None
        return "ended" if code is None else ending_of(code)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; True if it came."""
        target: Any = self._process if self._process is not None else self._thread
        target.join(timeout_s)
        return not self.alive

    @property
    def pid(self) -> int | None:
        """The role's process; None for a thread."""
        pid: int | None = self._process.pid if self._process is not None else None
        return pid

    def kill(self) -> None:
        if self._process is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join()
