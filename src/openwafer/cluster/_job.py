"""A job: a plan, and all that its roles need beside it. Plain data, so that it travels to processes."""

from __future__ import annotations

from typing import Literal

import msgspec

from openwafer.artifact import Plan


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What every role is started with."""

    plan: Plan
    seed: int
    start: str
    """Folder of the checkpoint to start from; the first is written before the roles start."""
    store_folders: tuple[str, ...] = ()
    """By MemoryX shard: where its disk store lives, on its host."""
    matmul: Literal["torch", "onednn", "auto"] = "torch"
    matmul_choices: dict[str, str] = {}
    """Measured once by the coordinator, so that all systems of a job run the same kernels."""
    threads: int = 1
    """Threads of arithmetic per system."""
    device: str = "cpu"
    """What systems compute on: see `open_device`."""
    system_memory: int | None = None
    """Bytes that a system on a device with memory of its own may allocate there; None: whatever there is."""
    stall_s: float = 300.0
    """How long a role may wait for another before the run ends with StallError."""
    timeline_steps: int = 0
    """Steps, counted from the start of this run, whose spans are reported."""
    keep_checkpoints: int = 3
    fail: str = ""
    """Fault injection for tests: `<role>:<step>` kills that role when it begins that step."""


def memoryx(shard: int = 0) -> str:
    """The role that keeps a shard of the records; the first also reads and writes the checkpoints."""
    return f"memoryx{shard or ''}"


def store_segment(shard: int) -> str:
    """The shared memory in which a shard's RAM store lies."""
    return f"store{shard or ''}"


def system_role(index: int) -> str:
    return f"system{index}"


def input_role(replica: int) -> str:
    return f"input{replica}"
