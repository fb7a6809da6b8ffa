"""The supervisor: outlives the confined process by a moment, counts what it uses, and hears what was refused."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from openwafer.sandbox._confinement import Limits
from openwafer.sandbox._seccomp import Refusals

_LOOK_S = 0.05
_TOLD = 32
"""Different refusals that are told of one process."""


class Report:
    """One JSON object a line, to whoever started the launcher. If nobody reads any more, nobody is told."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def tell(self, kind: str, **fields: object) -> None:
        try:
            os.write(self.descriptor, json.dumps({"kind": kind, **fields}).encode() + b"\n")
        except OSError:
            return


@dataclass(slots=True)
class Usage:
    """What a confined process and its children use now."""

    memory_bytes: int = 0
    processes: int = 0


@dataclass(slots=True)
class Supervisor:
    """Watches one process from its start to its end; `kill` must end it and all that it started."""

    pid: int
    life: int
    report: Report
    limits: Limits
    shared_bytes: int
    measure: Callable[[], Usage]
    refusals: Refusals | None
    killed: str = ""
    _peak: int = 0
    _told: set[str] = field(default_factory=set)

    def run(self) -> int:
        """Until the process has ended; returns its wait status."""
        ended = os.pidfd_open(self.pid)
        poll = select.poll()
        poll.register(self.life, select.POLLIN)
        poll.register(ended, select.POLLIN)
        if self.refusals is not None:
            poll.register(self.refusals.descriptor, select.POLLIN)
        look_at = 0.0
        try:
            while True:
                for descriptor, event in poll.poll(_LOOK_S * 1000):
                    if descriptor == self.life:
                        poll.unregister(self.life)
                        self._kill("stopped")
                    elif descriptor == ended:
                        return os.waitpid(self.pid, 0)[1]
                    elif event & select.POLLIN:
                        self._hear()
                    else:
                        poll.unregister(descriptor)  # all who could be refused something have gone
                if time.monotonic() >= look_at:
                    self._look()
                    look_at = time.monotonic() + _LOOK_S
        finally:
            os.close(ended)

    @property
    def peak_bytes(self) -> int:
        return self._peak

    def _look(self) -> None:
        usage = self.measure()
        self._peak = max(self._peak, usage.memory_bytes)
        if usage.memory_bytes > self.limits.memory_bytes + self.shared_bytes:
            self._kill("memory")
        elif usage.processes > self.limits.processes:
            self._kill("processes")

    def _kill(self, why: str) -> None:
        self.killed = self.killed or why
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _hear(self) -> None:
        assert self.refusals is not None
        refusal = self.refusals.next()
        if refusal is None or len(self._told) >= _TOLD or refusal.what in self._told:
            return
        self._told.add(refusal.what)
        self.report.tell("refused", what=refusal.what, why=refusal.why)


def usage_of_everything() -> Usage:
    """Of all processes in `/proc` but the first: in a namespace of processes these are the confined ones."""
    total = Usage()
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            _add(total, name)
    return total


def usage_of(pid: int) -> Usage:
    """Of one process that cannot have children."""
    total = Usage()
    _add(total, str(pid))
    return total


def _add(total: Usage, pid: str) -> None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except OSError:
        return
    # File pages that are mapped can be had again; all else is the process's own.
    for name in (b"RssAnon", b"RssShmem", b"VmSwap"):
        total.memory_bytes += int(lines.get(name, b"0 kB").split()[0]) * 1024
    total.processes += int(lines.get(b"Threads", b"0"))
