"""Every job that has not ended, as everybody sees it, over the store that keeps it."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, final

import msgspec

from openwafer.appliance._config import NodeConfig
from openwafer.appliance._folder import JobFolder
from openwafer.appliance._job import WAITING, Ending, Job
from openwafer.base import JobNotFoundError


@final
class Board:
    """Records of jobs: the newest version of each, written down before anybody sees it.

    `lock` is held by whoever reads a record and writes a newer one; `changed` tells of every new version. Methods take the
    lock themselves.
    """

    def __init__(self, config: NodeConfig) -> None:
        """Open the store. Raises InputError, StorageError."""
        # It loads a database's library, which no client of a node needs.
        from openwafer.appliance._store import Store

        self.config = config
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.wake = threading.Event()
        """Set by every change: somebody may start, or has to be looked at."""
        self.ended: Counter[str] = Counter()
        """Jobs that have ended since the node began, by state."""
        self._root = config.folder.resolve() / "jobs"
        self._store = Store(config.store_url)
        self._live = {job.id: job for job in self._store.live()}

    def add(self, job: Job) -> None:
        """A new job. Raises StorageError; there is then none."""
        with self.lock:
            self._store.add(job)
            self._live[job.id] = job
            self.folder(job.id).tell("state", state=job.state, message=job.reason)
            self._note_change()

    def put(self, job: Job, **changes: Any) -> Job:
        """A newer version of a job's record. Raises StorageError; the older one then goes on."""
        with self.lock:
            newer = msgspec.structs.replace(job, **changes, version=job.version + 1)
            self._store.put(newer)
            if newer.is_final:
                self._live.pop(newer.id, None)
            else:
                self._live[newer.id] = newer
            if (newer.state, newer.reason) != (job.state, job.reason):
                self.folder(newer.id).tell("state", state=newer.state, message=newer.reason)
            self._note_change()
            return newer

    def end(self, job: Job, state: Ending, reason: str, exit_status: int | None = None) -> Job:
        """The last version of a job's record. Its files stay, except what MemoryX kept on disks."""
        with self.lock:
            folder = self.folder(job.id)
            ended = self.put(
                job,
                state=state,
                reason=reason,
                waits_for="",
                ended=time.time(),
                exit_status=exit_status,
                checkpoint=folder.newest_checkpoint(),
            )
            folder.say(f"{state}: {reason}")
            self.ended[state] += 1
        for place in self.config.memoryx_folders:
            shutil.rmtree(place / job.id, ignore_errors=True)
        return ended

    def waits(self, job: Job, text: str) -> None:
        """What a job waits for. Not worth a transaction: every node finds it anew."""
        with self.lock:
            if job.waits_for != text and self._live.get(job.id) is job:
                self._live[job.id] = msgspec.structs.replace(job, waits_for=text, version=job.version + 1)
                self.changed.notify_all()

    def find(self, id: str) -> Job | None:
        """A job that has not ended."""
        with self.lock:
            return self._live.get(id)

    def job(self, id: str) -> Job:
        """A job, ended or not. Raises JobNotFoundError."""
        found = self.find(id) or self._store.get(id)
        if found is None:
            raise JobNotFoundError(f"there is no job {id!r}; `wafer jobs --all` lists them")
        return found

    def jobs(self, **conditions: Any) -> list[Job]:
        """As `Store.find`, with the newest versions."""
        found = self._store.find(**conditions)
        with self.lock:
            return [self._live.get(job.id, job) for job in found]

    def live(self) -> list[Job]:
        """Every job that has not ended."""
        with self.lock:
            return list(self._live.values())

    def waiting(self) -> list[Job]:
        """Those that have been given nothing."""
        return [job for job in self.live() if job.state in WAITING]

    def holding(self) -> list[Job]:
        """Those that have been given what they asked for."""
        return [job for job in self.live() if job.state not in WAITING]

    def first_of(self, workflow: str) -> Job | None:
        """The job whose priority and age the workflow's later jobs inherit."""
        live = [job for job in self.live() if job.workflow == workflow]
        return min(live, key=lambda job: job.created) if live else self._store.first_of(workflow)

    def folder(self, id: str) -> JobFolder:
        """The job's files, whether there is such a job or not."""
        return JobFolder(self._root / Path(id).name)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _note_change(self) -> None:
        self.wake.set()
        self.changed.notify_all()
