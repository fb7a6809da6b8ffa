"""What a confined process may have: plain data that travels to the launcher as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from openwafer.base import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or folder of this machine that the process sees under the same path."""

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the process and all that it starts may use."""

    memory_bytes: int = 8 * GIB
    """Private memory of all of its processes together; scratch space counts apart."""
    scratch_bytes: int = 1 * GIB
    """Files in its scratch folder, and again as much in /dev/shm."""
    processes: int = 256
    """Processes and threads."""
    open_files: int = 1024
    cpu_s: float | None = None
    """Processor time of any one process; None: as much as it likes, at a low priority."""
    nice: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """All that a confined process can touch. What is not listed does not exist for it."""

    mounts: tuple[Mount, ...] = ()
    trusted: tuple[str, ...] = ()
    """Files and folders to read that the caller answers for, an interpreter's for example; not held against `volumes`."""
    volumes: tuple[str, ...] = ("/",)
    """Real folders inside which every mount must lie, wherever links lead; checked when it is opened."""
    scratch_at: tuple[str, ...] = ("/tmp",)
    """Paths at which the scratch folder is seen (beside `/scratch`, its home), each as a folder of its own."""
    limits: Limits = field(default_factory=Limits)
    unconfined: bool = False
    """Run even where this machine offers neither namespaces nor Landlock: limits on memory and time are all that is left."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What holds a process, strongest first, in words."""

    tier: str
    """`namespaces`, `landlock` or `none`."""
    active: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """What was tried and refused by this machine, with the reason."""

    def __str__(self) -> str:
        text = ", ".join(self.active) or "nothing"
        return f"{text} (not available: {'; '.join(self.missing)})" if self.missing else text
