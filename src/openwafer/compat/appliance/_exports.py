"""Log exports as the cluster's command line asks for them: made by a thread, fetched page by page, kept for a day."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, final

from openwafer.appliance import ManagementNode
from openwafer.appliance.web import write_archive
from openwafer.base import InputError, StorageError, WaferError

PAGE_BYTES = 2 << 20
_KEPT_S = 24 * 3600.0
_NAME = re.compile(r"(wsjob-[a-z0-9]+)-export-[0-9a-f]{8}")
State = Literal["RUNNING", "COMPLETED", "FAILED"]


class Page(NamedTuple):
    data: bytes
    next: str
    """What to ask for next; empty after the last page."""
    left: int
    signature: str
    """SHA-256 of this page."""


@final
class Exports:
    """The archives that `wafer job export` gives, in <state>/exports. An export's id names its job. Thread-safe."""

    def __init__(self, node: ManagementNode) -> None:
        self._node = node
        self._folder = node.config.folder / "exports"
        self._failures: dict[str, str] = {}

    def create(self, job: str) -> str:
        """Begin to export a job; the id of the export. Raises JobNotFoundError, StorageError."""
        found, folder = self._node.job(job), self._node.folder(job)
        export = f"{found.id}-export-{secrets.token_hex(4)}"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for old in self._folder.iterdir():
                if time.time() - old.stat().st_mtime > _KEPT_S:
                    old.unlink(missing_ok=True)
            self._partial(export).touch()
        except OSError as error:
            raise StorageError(
                f"cannot write {self._folder}: {error.strerror}; make room on its disk"
            ) from error

        def make() -> None:
            try:
                write_archive(self._partial(export), folder, found, with_checkpoints=False)
                self._partial(export).rename(self.path(export))
            except (OSError, WaferError) as error:
                self._failures[export] = str(error)
                with suppress(OSError):
                    self._partial(export).unlink(missing_ok=True)

        threading.Thread(target=make, name="export", daemon=True).start()
        return export

    def job_of(self, export: str) -> str:
        """The job of an export. Raises InputError for what is no export's id."""
        match = _NAME.fullmatch(export)
        if match is None:
            raise InputError(f"{export!r} is no export; ask for one first")
        return match[1]

    def state(self, export: str) -> tuple[State, str]:
        """How far an export is, with what went wrong or where the archive lies."""
        self.job_of(export)
        if self.path(export).is_file():
            return "COMPLETED", str(self.path(export))
        if export in self._failures or not self._partial(export).exists():
            # What another management node had begun is not gone on with.
            return "FAILED", self._failures.get(
                export, "it was not finished, or is older than a day: ask for another"
            )
        return "RUNNING", "the archive is being made"

    def page(self, export: str, token: str) -> Page:
        """A piece of an archive; token: "" for the first. Raises InputError if there is none yet."""
        state, text = self.state(export)
        if state != "COMPLETED" or not (token.isdecimal() or not token):
            raise InputError(
                f"{export} cannot be fetched: {text if state != 'COMPLETED' else 'no such page'}"
            )
        start = int(token or 0)
        with open(self.path(export), "rb") as file:
            file.seek(start)
            data = file.read(PAGE_BYTES)
            left = max(0, file.seek(0, 2) - start - len(data))
        return Page(data, str(start + len(data)) if left else "", left, hashlib.sha256(data).hexdigest())

    def path(self, export: str) -> Path:
        return self._folder / f"{export}.tar.gz"

    def _partial(self, export: str) -> Path:
        return self._folder / f"{export}.partial"
