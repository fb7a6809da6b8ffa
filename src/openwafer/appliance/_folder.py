"""The files of one job, which outlive its process, the node, and the record in the store."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import msgspec

from openwafer.base import InputError, StorageError

Event = dict[str, Any]
_CHUNK = 1 << 20
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@final
class JobFolder:
    """`<state>/jobs/<id>`: see the fields. Nothing here waits for a process; everything may be read while the job runs."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.spec = self.path / "spec.json"
        self.source = self.path / "source"
        """Files that came with the job: its recipe and what that imports."""
        self.log = self.path / "log"
        self.events = self.path / "events.jsonl"
        self.run = self.path / "run"
        self.artefacts = self.path / "artefacts"
        self.start = self.path / "start.json"
        """What the runner is to start: written anew for every start."""
        self.alive = self.path / "alive"
        """Locked by the runner as long as it lives; it holds the runner's process id and the number of the start."""
        self.exit = self.path / "exit"
        """How a start ended, and which; written whole when everything of it is gone."""

    def tell(self, kind: str, **fields: Any) -> None:
        """Append an event of the node's own. A full disk is no reason to stop a job, so that one is then not kept."""
        line = msgspec.json.encode({"at": time.time(), "kind": kind, **fields, "by": "node"}) + b"\n"
        _append(self.events, line)

    def say(self, text: str) -> None:
        """Append a line of the node's own to the job's log, so that its reader knows why the log begins anew or ends."""
        _append(self.log, f"[wafer] {text}\n".encode())

    def read_events(self, since: int = 0) -> tuple[list[Event], int]:
        """The whole events from byte `since` on, and where the next ones begin. Lines that are no event are passed over."""
        data = read_from(self.events, since)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) == _CHUNK:
            whole = data  # no event is so long
        found = []
        for line in whole.splitlines():
            try:
                event = msgspec.json.decode(line)
            except msgspec.MsgspecError:
                continue
            if isinstance(event, dict) and isinstance(event.get("kind"), str):
                found.append(event)
        return found, since + len(whole)

    def newest_checkpoint(self) -> str:
        """The name of the newest checkpoint in the run folder, "" if there is none. One that is being written is none."""
        try:
            names = [entry.name for entry in os.scandir(self.run / "checkpoints") if entry.is_dir()]
        except OSError:
            return ""
        steps = [int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))]
        return f"checkpoint-{max(steps)}" if steps else ""

    def file(self, name: str) -> Path:
        """A file below this folder, whatever links lie in between. Raises InputError if it is not there or elsewhere."""
        root = self.path.resolve()
        try:
            found = (root / name).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            found = None
        if found is None or not found.is_relative_to(root) or not found.is_file():
            raise InputError(f"the job has no file {name!r}; files of its run are below run/")
        return found


def read_from(path: Path, offset: int, most: int = _CHUNK) -> bytes:
    """Up to `most` bytes of a file that may not be there yet, from `offset` on."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(most)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}; check the disk of the appliance"
        ) from error


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """All of a file or nothing, surviving a crash. Raises StorageError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; make room on the disk of the appliance's state folder, or check "
            "its permissions"
        ) from error


def _append(path: Path, line: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    with suppress(OSError):
        os.write(fd, line)  # one write, so that lines of several writers do not mix
    os.close(fd)
