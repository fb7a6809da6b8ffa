"""How much memory is left to this process, so that a large request fails instead of killing a role."""

from __future__ import annotations

from pathlib import Path


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """The memory that can still be taken without swapping, in bytes; None where the system does not say.

    It is the least of what the machine has available and of what every control group (version 2)
    around this process leaves, counting reclaimable file pages as free. `root` is where `proc` and
    `sys` stand.
    """
    left = [bytes_left for bytes_left in (_machine(root), *_control_groups(root)) if bytes_left is not None]
    return min(left, default=None)


def _machine(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_groups(root: Path) -> list[int]:
    mount = root / "sys/fs/cgroup"
    path = next(
        (line[3:] for line in _read(root / "proc/self/cgroup").splitlines() if line.startswith("0::")), None
    )
    if path is None:
        return []
    group = mount / path.lstrip("/")
    left = []
    for folder in (group, *group.parents):
        limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            stat = dict(line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines())
            left.append(max(0, int(limit) - int(used) + int(stat.get("inactive_file", "0"))))
        if folder == mount:
            break
    return left


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
