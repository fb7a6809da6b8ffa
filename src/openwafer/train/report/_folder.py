"""One folder per run, one process at a time, and never two runs mixed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import msgspec

from openwafer.base import InputError, RunFolderError, StorageError
from openwafer.train.report._files import storage_errors, write_atomic

_DIFFERENCES_SHOWN = 12
_ABSENT = object()


@final
class RunFolder:
    """The files of one run. `RunFolder(path)` only names them; `create` makes and locks the folder.

    A created folder is held until `close`, the end of a `with` block or the death of the process, and may
    not be opened a second time meanwhile. A forked child shares the hold, a spawned one does not.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.plan = self.path / "plan.json"
        self.plan_text = self.path / "plan.txt"
        self.log = self.path / "log.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.timeline = self.path / "timeline.json"
        self.timeline_picture = self.path / "timeline.png"
        self.loss_picture = self.path / "loss.png"
        self.checkpoints = self.path / "checkpoints"
        """A folder; so is `tensorboard`, which holds the event files."""
        self.tensorboard = self.path / "tensorboard"
        self.lock = self.path / "lock"
        self.previous_config: dict[str, Any] | None = None
        """What config.json held before `create`, if a run was there."""
        self._fd = -1

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], resume: bool = False, *, overwrite: bool = False
    ) -> RunFolder:
        """Make or reopen a run folder, lock it, and write `config` as its config.json.

        A folder whose config.json equals `config` is reopened. With `resume` the new config replaces a
        different one and every other file stays; with `overwrite` the files of the earlier run, its
        checkpoints too, are removed first. Files that no run writes are never touched.

        Raises RunFolderError if another process holds the folder, if it holds a run of another config and
        neither was asked, or if `path` is a file; InputError if `config` cannot be written as JSON;
        StorageError if the disk is full or the folder cannot be written.
        """
        if resume and overwrite:
            raise InputError(f"resume and overwrite were both asked for {path}; ask for one of them")
        encoded, wanted = _as_json(config, Path(path))
        folder = cls(path)
        with storage_errors(folder.path):
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise RunFolderError(
                    f"the run folder {folder.path} is a file, or lies below one; name a folder"
                ) from error
        folder._acquire()
        try:
            folder._take(wanted, encoded, resume=resume, overwrite=overwrite)
        except BaseException:
            folder.close()
            raise
        return folder

    def write(self, path: Path, data: str | bytes) -> None:
        """Write one of the run's files whole or not at all. Raises StorageError."""
        write_atomic(path, data.encode() if isinstance(data, str) else data)

    def close(self) -> None:
        """Let the next run in. Closing twice is harmless."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _acquire(self) -> None:
        with storage_errors(self.lock):
            fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
                os.close(fd)
                who = (
                    "this process" if pid == str(os.getpid()) else f"process {pid or '(pid not yet written)'}"
                )
                raise RunFolderError(
                    f"{self.path} is in use by {who}, pid {pid or 'unknown'}; wait for that run to end, "
                    "stop it, or choose another run folder"
                ) from None
            except OSError:
                os.close(fd)
                raise
            self._fd = fd
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def _take(self, wanted: dict[str, Any], encoded: bytes, *, resume: bool, overwrite: bool) -> None:
        if overwrite:
            self._clear()
        elif self.config.exists():
            try:
                self.previous_config = self._read_config()
            except RunFolderError:
                if not resume:
                    raise
        if self.previous_config is not None and not resume and self.previous_config != wanted:
            raise RunFolderError(_other_run(self.path, self.previous_config, wanted))
        if self.previous_config != wanted:
            write_atomic(self.config, encoded)
        with storage_errors(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
            self.tensorboard.mkdir(exist_ok=True)
        if not os.access(self.path, os.W_OK):
            raise StorageError(
                f"{self.path} cannot be written; check its permissions or choose another folder"
            )

    def _read_config(self) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self.config.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError) as error:
            raise RunFolderError(
                f"{self.config} cannot be read ({error}), so it is not known which run {self.path} holds; "
                "choose another folder, or ask to resume or to overwrite it"
            ) from error

    def _clear(self) -> None:
        """Remove what a run writes, by name; anything else in the folder is not ours."""
        with storage_errors(self.path):
            for folder in (self.checkpoints, self.tensorboard):
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
                else:
                    folder.unlink(missing_ok=True)
            for file in (
                *(self.config, self.plan, self.plan_text, self.log, self.metrics),
                *(self.timeline, self.timeline_picture, self.loss_picture),
            ):
                file.unlink(missing_ok=True)


def _as_json(config: Mapping[str, Any], path: Path) -> tuple[bytes, dict[str, Any]]:
    """The config as bytes for people, and as what reading those bytes gives back."""
    try:
        encoded = msgspec.json.format(msgspec.json.encode(dict(config)), indent=2) + b"\n"
        return encoded, msgspec.json.decode(encoded, type=dict[str, Any])
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InputError(
            f"the config of the run in {path} cannot be written as JSON: {error}; "
            "use only numbers, text, lists and dicts with text keys"
        ) from error


def _other_run(path: Path, there: dict[str, Any], wanted: dict[str, Any]) -> str:
    lines = list(_differences(there, wanted, ""))
    shown = "; ".join(lines[:_DIFFERENCES_SHOWN])
    more = len(lines) - _DIFFERENCES_SHOWN
    return (
        f"{path} holds another run; its config.json differs in {len(lines)} "
        f"{'field' if len(lines) == 1 else 'fields'}: {shown}{f'; and {more} more' if more > 0 else ''}. "
        "Choose another folder, ask to resume it with the new config, or ask to overwrite it"
    )


def _differences(there: Any, wanted: Any, name: str) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted(there.keys() | wanted.keys()):
            yield from _differences(
                there.get(key, _ABSENT), wanted.get(key, _ABSENT), f"{name}.{key}" if name else key
            )
    elif there is _ABSENT or wanted is _ABSENT or there != wanted:
        yield f"{name}: {_shown(there)} there, {_shown(wanted)} asked"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
