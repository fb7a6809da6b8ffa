"""The management node: takes jobs, queues them, starts them when they may, watches them, and keeps what it promised."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, final

from openwafer.appliance._board import Board
from openwafer.appliance._config import NodeConfig
from openwafer.appliance._engine import Engine, Host
from openwafer.appliance._folder import Event, JobFolder, read_from
from openwafer.appliance._job import WAITING, Ending, Job, new_id
from openwafer.appliance._local import LocalEngine
from openwafer.appliance._lock import NodeLock
from openwafer.appliance._queue import Amounts
from openwafer.appliance._spec import DEFAULT_PRIORITY, JobSpec, check_labels, check_priority
from openwafer.appliance._submission import check, write_folder
from openwafer.appliance._supervisor import Supervisor
from openwafer.appliance._systems import Systems
from openwafer.base import InputError


@final
class ManagementNode:
    """The jobs of one cluster. Every method may be called from any thread; it blocks for a transaction of the store at most,
    unless it says otherwise.

    Made from a state folder, it takes over what an earlier node left there: jobs that still run, that wait, or that ended
    meanwhile. `close` (or the end of a `with`) leaves running jobs alone.
    """

    def __init__(self, config: NodeConfig, engine: Engine | None = None, *, paused: bool = False) -> None:
        """Open the store, adopt its jobs and begin to schedule.

        paused: start no job. Raises InputError if another node has the state folder, StorageError if it or the store cannot
        be used.
        """
        self.config = config
        self._node_lock = NodeLock(config.folder)
        try:
            self._board = Board(config)
            self._systems = Systems(config.folder / "systems.json", config.systems)
            self._engine = engine or LocalEngine()
            self._supervisor = Supervisor(self._board, self._systems, self._engine, paused=paused)
        except BaseException:
            self._node_lock.release()
            raise
        self._supervisor.start()

    # --- jobs -----------------------------------------------------------------------------------------

    def submit(
        self, spec: JobSpec, files: Mapping[str, bytes] | None = None, volumes: Sequence[str] = ()
    ) -> Job:
        """Take a job. When this returns, the job survives whatever happens to the node.

        files: by path below the job's `source` folder. volumes: folders that its user may mount, in place of the cluster's
        volumes. Raises InputError for a job that this cluster can never run;
        StorageError if it could not be written down, and then there is no job.
        """
        spec = spec.checked()
        files = dict(files or {})
        check(spec, files, self.config, self._supervisor.whole, volumes)
        first = self._board.first_of(spec.workflow) if spec.workflow is not None else None
        now = time.time()
        inherited = first.priority if first is not None else DEFAULT_PRIORITY
        job = Job(
            id=new_id("imgjob" if spec.kind == "image" else "wsjob"),
            spec=spec,
            state="queued",
            user=spec.user,
            priority=inherited if spec.priority is None else spec.priority,
            created=now,
            order=first.order if first is not None else now,
            labels=spec.labels,
            reason="submitted",
            version=1,
        )
        folder = self.folder(job.id)
        try:
            write_folder(folder, spec, files)
            with self._board.lock:
                if self._supervisor.paused:
                    raise InputError(
                        "the cluster is going down and starts no jobs; submit again when it is up"
                    )
                self._supervisor.beat(job.id)
                self._board.add(job)
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return self._board.find(job.id) or job

    def job(self, id: str) -> Job:
        """The job as it is now. Raises JobNotFoundError if there is none of this id."""
        return self._board.job(id)

    def jobs(
        self,
        *,
        states: tuple[str, ...] = (),
        user: str | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """The newest jobs that meet every condition, newest first."""
        return self._board.jobs(states=states, user=user, workflow=workflow, labels=labels, limit=limit)

    def queue(self) -> list[Job]:
        """Every job that has not ended."""
        return self._board.live()

    def cancel(self, id: str, state: Ending = "cancelled", reason: str = "cancelled") -> Job:
        """End a job; its record will say `state` and `reason`. Without effect on one that has ended.

        A job that waits ends at once. One that runs is interrupted as Ctrl-C does, which lets it write a checkpoint, and
        killed `grace_s` later; this does not wait for that. Asking again interrupts again.
        """
        with self._board.lock:
            job = self._board.find(id)
            if job is None:
                return self.job(id)
            if job.state in WAITING:
                return self._board.end(job, state, reason)
            return self._supervisor.end(job, state, reason)

    def heartbeat(self, id: str) -> Job:
        """Renew the job's lease. Raises JobNotFoundError."""
        with self._board.lock:
            job = self.job(id)
            if not job.is_final:
                self._supervisor.beat(id)
            return job

    def label(self, id: str, labels: Mapping[str, str | None]) -> Job:
        """Set labels, or remove those that are None. Raises InputError for labels that cannot be."""
        with self._board.lock:
            job = self.job(id)
            kept = {name: value for name, value in {**job.labels, **labels}.items() if value is not None}
            check_labels(kept)
            return self._board.put(job, labels=kept)

    def prioritise(self, id: str, priority: int) -> Job:
        """Another place in the queue, 0 (first) to 399. Raises InputError for a job that has ended."""
        check_priority(priority)
        with self._board.lock:
            job = self.job(id)
            if job.is_final:
                raise InputError(f"{id} has {job.state}; a job has a place in the queue only until then")
            return self._board.put(job, priority=priority)

    def changed(self, id: str, version: int, timeout_s: float) -> Job:
        """The job as soon as its version is not `version`, or as it is after `timeout_s`."""
        with self._board.changed:
            self._board.changed.wait_for(
                lambda: self.job(id).version != version or self._supervisor.ending, timeout_s
            )
            return self.job(id)

    def events(self, id: str, since: int = 0) -> tuple[list[Event], int]:
        """Events from byte `since` of the job's events on, and the place after them."""
        self.job(id)
        return self.folder(id).read_events(since)

    def log(self, id: str, offset: int = 0, most: int = 1 << 20) -> bytes:
        """Up to `most` bytes of the job's log from `offset` on."""
        self.job(id)
        return read_from(self.folder(id).log, offset, most)

    def folder(self, id: str) -> JobFolder:
        """The job's files, whether there is such a job or not."""
        return self._board.folder(id)

    def new_workflow(self) -> str:
        """A name for jobs that belong together."""
        return new_id("wflow")

    # --- the cluster ----------------------------------------------------------------------------------

    def amounts(self) -> tuple[Amounts, Amounts]:
        """What there is in service of each resource, and what of it is free."""
        with self._board.lock:
            return self._supervisor.total(), self._supervisor.free()

    def systems(self) -> list[tuple[str, str, str]]:
        """Each system's name, the job that has it (or ""), and why it is out of service (or "")."""
        with self._board.lock:
            holders = {name: job.id for job in self._board.holding() for name in job.systems}
            return [
                (name, holders.get(name, ""), self._systems.out.get(name, "")) for name in self._systems.names
            ]

    def hosts(self) -> list[Host]:
        """The machines that systems are on; empty where that is this machine alone."""
        return self._engine.hosts()

    def take_out(self, system: str, reason: str) -> None:
        """Give this system to no further job. Raises InputError if there is none of this name."""
        with self._board.lock:
            self._systems.take_out(system, reason or "taken out of service")
            self._board.wake.set()

    def put_in(self, system: str) -> None:
        """Let jobs have the system again. Raises InputError if there is none of this name."""
        with self._board.lock:
            self._systems.put_in(system)
            self._board.wake.set()

    @property
    def ended(self) -> dict[str, int]:
        """Jobs that have ended since this node began, by state."""
        return dict(self._board.ended)

    @property
    def restarted(self) -> int:
        """Starts after a job's first since this node began."""
        return self._supervisor.restarted

    def drain(self, timeout_s: float | None = None) -> list[Job]:
        """Interrupt every running job, start no more, and wait until nothing runs: what `wafer cluster down` does.

        Jobs that can be resumed are queued again, and go on when a node has the state folder next; others are cancelled.
        Returns the jobs that run on after `timeout_s` (None: grace and half a minute).
        """
        board = self._board
        with board.changed:
            self._supervisor.paused = True
            for job in board.holding():
                self._supervisor.suspend(job, "the cluster went down")
            board.changed.wait_for(
                lambda: not board.holding(), self.config.grace_s + 30 if timeout_s is None else timeout_s
            )
            return board.holding()

    def close(self) -> None:
        """Stop scheduling and let go of the store; running jobs run on. Closing twice is harmless."""
        self._supervisor.stop()
        with self._board.changed:
            self._board.changed.notify_all()
        self._board.close()
        self._node_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
