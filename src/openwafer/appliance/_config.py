"""Everything that can be chosen about a management node."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from openwafer.appliance._queue import Amounts
from openwafer.base import InputError

COMPILE_ROOT = "compile"
"""Of the state folder: the compile cache, see artifact.CompileCache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One cluster: what it has, and where its state lies. Raises InputError for what no cluster can have."""

    folder: Path
    """The state folder: the store, the jobs' folders, the compile cache. One node at a time has it."""
    systems: int = 1
    compile_slots: int = 1
    memoryx: str = "ram"
    """Where jobs keep weights: `ram`, `disk:/folder` or `disk:/folder,/on another disk`; each job gets a folder below."""
    memoryx_bytes: int | None = None
    """What jobs may take there in all; None: most of the machine's RAM, or the disks' free space when the node starts."""
    store: str | None = None
    """URL of the job store; None: SQLite in the state folder."""
    volumes: tuple[Path, ...] = ()
    """Folders that jobs may mount; none named: any folder that the node's own account can read."""
    grace_s: float = 60.0
    """Between asking a job to end and ending it: time to write a checkpoint."""
    tick_s: float = 0.1
    """How often processes are looked at."""

    def __post_init__(self) -> None:
        for field in ("systems", "compile_slots"):
            if getattr(self, field) < 1:
                raise InputError(
                    f"a cluster with {field} = {getattr(self, field)} runs nothing; give at least 1"
                )
        kind, colon, folders = self.memoryx.partition(":")
        if (
            kind not in ("ram", "disk")
            or (kind == "ram" and colon)
            or (kind == "disk" and not all(folders.split(",")))
        ):
            raise InputError(
                f"memoryx is {self.memoryx!r}; write ram, disk:/path/of/a/folder or disk:/path/on/one/disk,/path/on/another"
            )
        if self.memoryx_bytes is not None and self.memoryx_bytes < 1:
            raise InputError(
                f"MemoryX of {self.memoryx_bytes} bytes holds nothing; give a size such as 16GiB"
            )
        for volume in self.volumes:
            if not volume.is_dir():
                raise InputError(f"the volume {volume} is no folder; make it, or name another")

    @property
    def memoryx_folders(self) -> tuple[Path, ...]:
        """Where MemoryX lies on disks; empty for `ram`."""
        _, _, folders = self.memoryx.partition(":")
        return tuple(Path(folder).expanduser().resolve() for folder in folders.split(",") if folder)

    def memoryx_of(self, id: str) -> str:
        """A job's place, as `wafer train --memoryx` takes it."""
        places = [str(folder / id) for folder in self.memoryx_folders]
        return f"disk:{','.join(places)}" if places else "ram"

    @property
    def amounts(self) -> Amounts:
        """What there is of each resource, in service or not."""
        return Amounts(self.compile_slots, self.systems, self._memoryx_bytes())

    def _memoryx_bytes(self) -> int:
        if self.memoryx_bytes is not None:
            return self.memoryx_bytes
        if not self.memoryx_folders:
            return psutil.virtual_memory().total * 4 // 5
        for folder in self.memoryx_folders:
            folder.mkdir(parents=True, exist_ok=True)
        disks = {folder.stat().st_dev: shutil.disk_usage(folder).free for folder in self.memoryx_folders}
        return sum(disks.values()) * 9 // 10

    @property
    def store_url(self) -> str:
        """`store`, with None decided."""
        return self.store or f"sqlite:///{self.folder.resolve() / 'jobs.sqlite'}"

    @property
    def threads(self) -> int:
        """Arithmetic threads of one system: its share of this machine's cores, at least 1."""
        return (
            max(1, len(os.sched_getaffinity(0)) // self.systems)
            if hasattr(os, "sched_getaffinity")
            else max(1, (os.cpu_count() or 1) // self.systems)
        )
