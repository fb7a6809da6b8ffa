"""Checkpoint folders by name: which are complete, which are the remains of a dead writer."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from openwafer.cluster.store._manifest import MANIFEST

_COMPLETE = re.compile(r"checkpoint-(\d+)")
_REMAINS = re.compile(r"(checkpoint-\d+)\.(tmp|old)-(\d+)")

in_use: set[Path] = set()
"""Temporary folders that a writer of this process is filling."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"checkpoint-{step}"


def temporary_path(target: Path) -> Path:
    """Where this process builds `target`."""
    return target.with_name(f"{target.name}.tmp-{os.getpid()}")


def replaced_path(target: Path) -> Path:
    """Where this process puts an older checkpoint of the same step until the new one is in its place."""
    return target.with_name(f"{target.name}.old-{os.getpid()}")


def list_checkpoints(folder: Path | str) -> tuple[Path, ...]:
    """The complete checkpoints in `folder`, oldest step first; none if there is no such folder.

    Complete means that the writer finished; `Checkpoint.open` tells whether the files are still whole.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return ()
    steps = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _COMPLETE.fullmatch(path.name)) and (path / MANIFEST).is_file()
    }
    return tuple(steps[step] for step in sorted(steps))


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; half removed it is never taken for a complete one."""
    doomed = temporary_path(path)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def keep_last(folder: Path, keep: int, newest: Path) -> None:
    """Remove all but the `keep` checkpoints that were written last, `newest` being one of them."""
    others = [path for path in list_checkpoints(folder) if path != newest]
    others.sort(key=lambda path: (path / MANIFEST).stat().st_mtime_ns, reverse=True)
    for path in others[max(0, keep - 1) :]:
        remove_checkpoint(path)


def clear_remains(folder: Path) -> None:
    """Remove what writers left that died, and put back a checkpoint that one of them was replacing."""
    for path in folder.iterdir():
        match = _REMAINS.fullmatch(path.name)
        if match is None or path in in_use or (int(match[3]) != os.getpid() and _alive(int(match[3]))):
            continue
        target = folder / match[1]
        if match[2] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
