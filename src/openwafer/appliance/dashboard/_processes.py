"""What the processes of jobs on this machine really take: memory, cores, disks. Roles name their processes."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple, final

import msgspec
import psutil

from openwafer.appliance._folder import JobFolder

_FRESH_S = 1.0
_KEPT = 300
_FORGET_S = 600.0
OTHERS = "others"


class RoleUse(msgspec.Struct, frozen=True):
    """One role's process, measured.

    memory_bytes: its own. shared_bytes: of memory that it shares with others and has touched (libraries, rings, the store),
    so that sums over roles count some of it more than once. cores: busy on average since the last look; None at the first.
    Rates of what reached disks, over the same time.
    """

    name: str
    memory_bytes: int
    shared_bytes: int
    cores: float | None
    read_per_s: float | None
    write_per_s: float | None


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """A job at one time: own memory of all its processes, of MemoryX (shared memory included), and busy cores."""

    at: float
    memory_bytes: int
    memoryx_bytes: int
    cores: float | None


class _Counts(NamedTuple):
    at: float
    cpu_s: float
    read: int
    written: int


class _Look:
    """What is remembered of one job."""

    def __init__(self) -> None:
        self.at = 0.0
        self.roles: list[RoleUse] = []
        self.counts: dict[tuple[int, float], _Counts] = {}
        self.samples: deque[Sample] = deque(maxlen=_KEPT)


@final
class Processes:
    """Looks at jobs' processes when somebody asks, at most once a second for each job however many ask. Thread-safe."""

    def __init__(self) -> None:
        self._looks: dict[str, _Look] = {}
        self._lock = threading.Lock()

    def of(self, folder: JobFolder) -> tuple[list[RoleUse], list[Sample]]:
        """The roles of a job that runs on this machine, the largest first, and how it was since somebody first looked.

        Both are empty for one that does not. A process that no role has named is the `coordinator`, and what it started
        beside them are `others`.
        """
        with self._lock:
            look = self._looks.setdefault(folder.path.name, _Look())
            now = time.monotonic()
            if now - look.at >= _FRESH_S:
                _measure(look, folder)
                look.at = now
                for name in [name for name, other in self._looks.items() if now - other.at > _FORGET_S]:
                    del self._looks[name]
            return look.roles, list(look.samples)


def _measure(look: _Look, folder: JobFolder) -> None:
    counts: dict[tuple[int, float], _Counts] = {}
    uses: dict[str, RoleUse] = {}
    for place, process in enumerate(_processes(folder)):
        with suppress(psutil.Error, OSError):
            name = process.name()
            role = "coordinator" if place == 0 else name if _is_role(name) else OTHERS
            use, key, count = _use(role, process, look.counts)
            counts[key] = count
            uses[role] = _sum(uses[role], use) if role in uses else use
    look.roles = sorted(uses.values(), key=lambda use: (use.name == OTHERS, -use.memory_bytes))
    look.counts = counts
    if uses:
        cores = [use.cores for use in uses.values() if use.cores is not None]
        memoryx = [
            use.memory_bytes + use.shared_bytes for use in uses.values() if use.name.startswith("memoryx")
        ]
        own = sum(use.memory_bytes for use in uses.values())
        look.samples.append(Sample(time.time(), own, sum(memoryx), sum(cores) if cores else None))


def _processes(folder: JobFolder) -> list[psutil.Process]:
    """The job's command, then everything below it; empty if the job does not run here."""
    try:
        runner = psutil.Process(int(folder.alive.read_bytes().split()[0]))
        if str(folder.path) not in runner.cmdline():
            return []  # the number is another process's by now
        return [
            process for child in runner.children()[:1] for process in (child, *child.children(recursive=True))
        ]
    except (OSError, ValueError, IndexError, psutil.Error):
        return []


def _is_role(name: str) -> bool:
    return name.rstrip("0123456789") in ("system", "memoryx", "input", "agent")


def _use(
    role: str, process: psutil.Process, before: dict[tuple[int, float], _Counts]
) -> tuple[RoleUse, tuple[int, float], _Counts]:
    memory, cpu = process.memory_info(), process.cpu_times()
    read = written = 0
    with suppress(psutil.Error, AttributeError):
        counters = process.io_counters()
        read, written = counters.read_bytes, counters.write_bytes
    key = (process.pid, process.create_time())
    count = _Counts(time.monotonic(), cpu.user + cpu.system, read, written)
    last = before.get(key)
    rates: tuple[float | None, float | None, float | None] = (None, None, None)
    if last is not None and count.at > last.at:
        took = count.at - last.at
        rates = (
            (count.cpu_s - last.cpu_s) / took,
            (count.read - last.read) / took,
            (count.written - last.written) / took,
        )
    shared = int(getattr(memory, "shared", 0))
    return RoleUse(role, max(0, memory.rss - shared), shared, *rates), key, count


def _sum(a: RoleUse, b: RoleUse) -> RoleUse:
    def plus(x: float | None, y: float | None) -> float | None:
        return y if x is None else x if y is None else x + y

    return RoleUse(
        a.name,
        a.memory_bytes + b.memory_bytes,
        a.shared_bytes + b.shared_bytes,
        plus(a.cores, b.cores),
        plus(a.read_per_s, b.read_per_s),
        plus(a.write_per_s, b.write_per_s),
    )
