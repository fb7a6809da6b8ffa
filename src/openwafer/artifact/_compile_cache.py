"""The compile cache: a folder for each program and its options, complete or not there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

from openwafer.artifact._describe import describe_plan
from openwafer.artifact._plan import Plan, plan_from_json, plan_to_json
from openwafer.base import InputError, StorageError

PLAN = "plan.json"
LEFT_S = 3600.0
"""After which nobody writes any more what is not whole yet."""


@final
class CompileCache:
    """`<root>/<name>` holds a plan and what its front end keeps beside it. The name says all that decided the plan.

    Any number of processes may use one at once, and any may be killed: a folder appears whole.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str, whole: str = PLAN) -> Path | None:
        """The folder of that name, if its file `whole` is there."""
        folder = self.root / name
        return folder if (folder / whole).is_file() else None

    def keep(self, name: str, plan: Plan, files: Mapping[str, bytes], *, replace: bool = False) -> Path:
        """Write a plan and `files`, all or none. What another process wrote meanwhile stays.

        replace: a folder of that name that is there before is out of date. Raises StorageError.
        """
        folder = self.root / name
        every = {PLAN: plan_to_json(plan), "plan.txt": describe_plan(plan).encode(), **files}
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self.root))
            try:
                for file, data in every.items():
                    _write(beside / file, data)
                beside.chmod(0o755)
                if replace:
                    _put_away(folder)
                beside.rename(folder)
            except OSError as error:
                shutil.rmtree(beside, ignore_errors=True)
                # Another process was faster; where all replace, a third one may be about to replace that.
                is_there = error.errno in (errno.EEXIST, errno.ENOTEMPTY)
                if not (is_there and (replace or (folder / PLAN).is_file())):
                    raise
        except OSError as error:
            raise StorageError(
                f"cannot write {folder}: {error.strerror}; make room on its disk, or check its permissions"
            ) from error
        return folder

    def prune(self, prefix: str, most: int) -> None:
        """Remove the folders that begin with `prefix`, but for the `most` that were used last, and what killed writers left."""
        with suppress(OSError):
            times = {entry.name: entry.stat().st_mtime for entry in os.scandir(self.root)}
            whole = sorted(
                (name for name in times if name.startswith(prefix)), key=times.__getitem__, reverse=True
            )
            for name in whole[most:]:
                _put_away(self.root / name)
            for name, at in times.items():
                if name.startswith(f".{prefix}") and at < time.time() - LEFT_S:
                    shutil.rmtree(self.root / name, ignore_errors=True)


def open_plan(folder: Path) -> Plan:
    """The plan in a folder of the cache. Raises InputError if it has none, PlanError if it was changed."""
    try:
        data = (folder / PLAN).read_bytes()
    except OSError as error:
        raise InputError(f"there is no compiled program in {folder} ({error}); compile it again") from error
    return plan_from_json(data)


def _put_away(folder: Path) -> None:
    """Remove a folder so that nobody sees half of it."""
    away = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    with suppress(FileNotFoundError):
        folder.rename(away / "old")
    shutil.rmtree(away, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
