"""What a measured process needs: settings in, figures out, its own memory. Standard library only.

Workers are processes of their own, because a process's peak memory is for its whole life. Some run in an environment
without openwafer (`peers.py`), and one limits itself before torch is imported (`larger_than_memory.py`): so nothing
is imported here that either would notice.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULT = "RESULT "
Settings = dict[str, Any]
Worker = Callable[[Settings], dict[str, Any]]


def answer(workers: Mapping[str, Worker], arguments: list[str]) -> None:
    """Be the worker named in `arguments`, `[name, settings as JSON]`, and print its figures for `run_worker`."""
    name, settings = arguments
    found = workers[name](json.loads(settings))
    sys.stdout.flush()
    print(f"\n{RESULT}{json.dumps(found)}", flush=True)


def memory(key: str) -> int:
    """Bytes of this process by a name of /proc/self/status: VmRSS, VmHWM (peak of it), VmData, VmPeak.

    Raises OSError where there is no /proc.
    """
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{key}:"))


def restart_peak() -> int:
    """Let VmHWM begin anew; returns the resident bytes that it begins with.

    Raises OSError where the kernel does not allow it.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def tree_peak() -> int:
    """VmHWM of this process and of its living children, in bytes; what they share counts once for each."""
    total = memory("VmHWM")
    for child in _children(os.getpid()):
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return total


def _children(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        try:
            direct = [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found


@dataclass
class Meter:
    """Clocks of this process that are read before the first step and after every step."""

    seconds: list[float]
    cpu: list[float]

    @classmethod
    def started(cls) -> Meter:
        """A meter whose first step begins now."""
        return cls([time.perf_counter()], [time.process_time()])

    def step(self) -> None:
        """A step is over."""
        self.seconds.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def figures(self) -> dict[str, list[float]]:
        """Seconds of each step: wall `times`, and `cpu` over all threads of this process."""
        return {"times": steps_of(self.seconds), "cpu": steps_of(self.cpu)}


def steps_of(clock: list[float]) -> list[float]:
    """Differences of a clock that was read before the first step and after every step."""
    return [after - before for before, after in itertools.pairwise(clock)]
