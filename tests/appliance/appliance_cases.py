"""What the tests of the appliance share: specs of small jobs, nodes that are quick to notice, and waiting for something."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from openwafer.appliance import Job, JobSpec, ManagementNode, NodeConfig

WAIT_S = 60.0
_Value = TypeVar("_Value")


def config(folder: Path, **changes: Any) -> NodeConfig:
    """A cluster of two systems that looks at its jobs often."""
    return NodeConfig(**{"folder": folder, "systems": 2, "memoryx_bytes": 1000, "tick_s": 0.02, **changes})


def shell(script: str, **changes: Any) -> JobSpec:
    """A job that runs a shell script on one system."""
    return JobSpec(
        **{"kind": "train", "user": "ann", "systems": 1, "command": ("sh", "-c", script), **changes}
    )


def resumable(script: str, **changes: Any) -> JobSpec:
    """The same, started again when something kills it."""
    return shell(script, **{"resume_command": ("sh", "-c", script), "max_restarts": 3, **changes})


def wait_until(what: Callable[[], _Value], text: str = "it") -> _Value:
    """The first true value. Fails after a minute."""
    end = time.monotonic() + WAIT_S
    while not (value := what()):
        assert time.monotonic() < end, f"{text} does not happen"
        time.sleep(0.01)
    return value


def wait_for(node: ManagementNode, id: str, *states: str) -> Job:
    """The job when it has reached one of the states; by default any final one."""
    end = time.monotonic() + WAIT_S
    job = node.job(id)
    while not (job.state in states if states else job.is_final):
        assert time.monotonic() < end, f"{job.state}: {job.reason}, {node.log(id).decode()}"
        job = node.changed(id, job.version, 1.0)
    return job


def wait_for_log(node: ManagementNode, id: str, text: str) -> str:
    """The log when it holds the text."""
    return wait_until(lambda: log if text in (log := node.log(id).decode()) else "", f"{text!r} in the log")


def is_alive(pid: int) -> bool:
    """True while the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_of(folder: Path) -> list[int]:
    """Processes that carry the name of a job's folder in their environment."""
    name = f"OPENWAFER_JOB={folder}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if name in environment + b"\0" and is_alive(int(entry.name)) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found
