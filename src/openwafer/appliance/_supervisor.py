"""The thread that runs a cluster: it looks at processes, hears what they tell, holds jobs to their limits, and starts those
whose turn it is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import final

from openwafer.appliance._board import Board
from openwafer.appliance._config import NodeConfig
from openwafer.appliance._engine import Command, Engine
from openwafer.appliance._folder import JobFolder, read_from
from openwafer.appliance._job import Ending, Job, Stop
from openwafer.appliance._queue import Amounts, choose, taken
from openwafer.appliance._settle import Result, result_of, settle
from openwafer.appliance._spec import Spread
from openwafer.appliance._systems import Systems
from openwafer.base import StorageError, WaferError, logger

_LEASES_S = 1.0
"""Between two looks at the leases of jobs that wait."""
_RETRY_S = 5.0
"""After a start that the machine refused: a full disk, no more processes."""
_OWN_VARIABLES = ("WAFER_", "RAY_AUTH_")
"""Of the node's environment: not for jobs, which are their users'."""


@final
class Supervisor:
    """Carries out what the board says. What it has begun it finds on the board and in the jobs' folders again: a step that
    fails, or a node that dies in the middle of one, leaves something that the next look goes on from.
    """

    def __init__(self, board: Board, systems: Systems, engine: Engine, *, paused: bool) -> None:
        self.paused = paused
        """No job is started while this is set."""
        self.restarted = 0
        """Starts after a job's first, since the node began."""
        self._board = board
        self._config: NodeConfig = board.config
        self._systems = systems
        self._engine = engine
        self._log = logger("node")
        self._all = board.config.amounts
        self._beats = {job.id: time.monotonic() for job in board.live()}
        self._read = {job.id: job.events_from for job in board.live()}
        self._results: dict[str, Result] = {}
        self._errors: dict[str, str] = {}
        self._not_before = 0.0
        self._there: int | None = None
        self._leases_due = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="node", daemon=True)

    def start(self) -> None:
        """Begin, with jobs that an earlier node left."""
        self._board.wake.set()
        self._thread.start()

    def stop(self) -> None:
        """Look at nothing any more; what runs runs on."""
        self._ending.set()
        self._board.wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def ending(self) -> bool:
        """Whether `stop` was called."""
        return self._ending.is_set()

    @property
    def whole(self) -> Amounts:
        """What the cluster was brought up with."""
        return self._all

    def total(self) -> Amounts:
        """What is in service."""
        there = self._engine.systems()
        count = len(self._systems.in_service)
        return self._all._replace(systems=count if there is None else min(count, there))

    def free(self) -> Amounts:
        """What no job has."""
        return self._all.minus(taken(self._board.holding()))._replace(systems=len(self._free_systems()))

    def beat(self, id: str) -> None:
        """Somebody still wants this job."""
        self._beats[id] = time.monotonic()

    def end(self, job: Job, state: Ending, reason: str) -> Job:
        """End a job that has been given something: ask it to end now, see to it later."""
        folder = self._board.folder(job.id)
        if job.stop is None or job.stop.state == "queued":
            job = self._board.put(
                job, stop=Stop(at=time.time(), state=state, reason=reason), reason=f"ending: {reason}"
            )
            folder.say(f"ending: {reason}")
        self._engine.interrupt(folder)
        return job

    def suspend(self, job: Job, reason: str) -> None:
        """Have a job go on later, if it can."""
        if job.stop is not None:
            return
        if job.spec.resume_command is None:
            self.end(job, "cancelled", reason)
            return
        self._board.put(
            job, stop=Stop(at=time.time(), state="queued", reason=reason), reason=f"ending: {reason}"
        )
        self._board.folder(job.id).say(f"ending: {reason}")
        self._engine.interrupt(self._board.folder(job.id))

    # --- one round ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._ending.is_set():
            self._try("all jobs", self._round)
            self._board.wake.wait(self._config.tick_s)

    def _round(self) -> None:
        there = self._engine.systems()
        woken = self._board.wake.is_set() or there != self._there
        self._there = there
        self._board.wake.clear()
        with self._board.lock:
            for job in self._board.holding():
                self._try(job.id, partial(self._watch, job))
            if time.monotonic() >= self._leases_due:
                self._leases_due = time.monotonic() + _LEASES_S
                for job in self._board.waiting():
                    if job.spec.lease_s is not None and self._silent_s(job.id) > job.spec.lease_s:
                        self._board.end(job, "cancelled", f"no heartbeat for {job.spec.lease_s:g} s")
            if (woken or self._not_before) and not self.paused and time.monotonic() >= self._not_before:
                self._not_before = 0.0
                self._schedule()

    def _try(self, what: str, step: Callable[[], object]) -> None:
        """Do one step, mostly of one job. What fails is tried again, and told once; nothing ends the thread."""
        try:
            step()
        except Exception as error:
            self._not_before = time.monotonic() + _RETRY_S
            told = f"{type(error).__name__}: {error}"
            if self._errors.get(what) != told:
                self._errors[what] = told
                unexpected = not isinstance(error, WaferError)
                with suppress(Exception):  # whatever became of the place where logs go
                    self._log.error("a step will be repeated", of=what, exc_info=unexpected, error=told)
        else:
            self._errors.pop(what, None)

    def _watch(self, job: Job) -> None:
        folder = self._board.folder(job.id)
        outcome = self._engine.look(folder, job.starts)
        # Events after the look: what a process that has ended said is complete.
        job = self._hear(job, folder)
        if outcome.state == "runs":
            if job.state == "scheduled":
                job = self._board.put(job, state="initializing", reason="taken over from an earlier node")
            self._hold_to_limits(job, folder)
            return
        if outcome.state == "absent":
            reason = "the node ended before the job began"
            self._board.put(job, state="queued", systems=(), starts=job.starts - 1, stop=None, reason=reason)
            return
        newest = folder.newest_checkpoint()
        end = settle(job, outcome, self._results.get(job.id), newest, _last_line(folder))
        if end.state == "queued":
            self._board.put(
                job,
                state="queued",
                systems=(),
                reason=end.reason,
                restarts=end.restarts,
                checkpoint=newest,
                exit_status=outcome.status,
                ingress=None,
                stop=None,
            )
            folder.say(end.reason)
        else:
            self._board.end(job, end.state, end.reason, exit_status=outcome.status)
            for known in (self._beats, self._read, self._results):
                known.pop(job.id, None)

    def _hear(self, job: Job, folder: JobFolder) -> Job:
        """Take what the job's process has told since the last time."""
        events, place = folder.read_events(self._read.get(job.id, job.events_from))
        for event in events:
            if event.get("by") == "node":
                continue
            text = str(event.get("message", ""))
            match event["kind"], event.get("state"):
                case "state", "initializing" | "running" as state if job.state != state:
                    job = self._board.put(
                        job, state=state, reason=text or "its process says so", waits_for=""
                    )
                case "waiting", _ if str(event.get("for", "")) != job.waits_for:
                    job = self._board.put(job, waits_for=str(event.get("for", "")))
                case "progress", _ if job.waits_for:
                    job = self._board.put(job, waits_for="")
                case "ingress", _:
                    job = self._board.put(job, ingress=str(event.get("address", "")) or None)
                case "result", _:
                    self._results[job.id] = result_of(event)
        # Only now: events that a full disk kept from being taken are read again.
        self._read[job.id] = place
        return job

    def _hold_to_limits(self, job: Job, folder: JobFolder) -> None:
        now, spec = time.time(), job.spec
        if job.stop is not None:
            if now - job.stop.at > self._config.grace_s:
                folder.say(f"killed: it did not end within {self._config.grace_s:g} s")
                self._engine.kill(folder)
        elif (
            spec.time_limit_s is not None
            and job.started is not None
            and now - job.started > spec.time_limit_s
        ):
            self.end(job, "cancelled", f"ran longer than its limit of {spec.time_limit_s:g} s")
        elif spec.lease_s is not None and self._silent_s(job.id) > spec.lease_s:
            self.end(job, "cancelled", f"no heartbeat for {spec.lease_s:g} s")

    def _silent_s(self, id: str) -> float:
        """How long a job's owner has not been heard of; since this node has known the job, if it never was."""
        now = time.monotonic()
        return now - self._beats.setdefault(id, now)

    # --- starting -------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        starts, waits = choose(self._board.waiting(), self.free(), self.total())
        for job, systems in starts:
            self._try(job.id, partial(self._start, job, systems))
        for job, text in waits:
            self._board.waits(job, text)

    def _start(self, job: Job, systems: int) -> None:
        folder = self._board.folder(job.id)
        names = tuple(self._free_systems()[:systems])
        events_from = folder.events.stat().st_size if folder.events.exists() else 0
        job = self._board.put(
            job,
            state="scheduled",
            reason="its resources are free",
            waits_for="",
            systems=names,
            scheduled=time.time(),
            starts=job.starts + 1,
            events_from=events_from,
            checkpoint=folder.newest_checkpoint(),
        )
        self._read[job.id] = events_from
        self._results.pop(job.id, None)
        self._beats.setdefault(job.id, time.monotonic())
        again = f" again (start {job.starts})" if job.starts > 1 else ""
        folder.say(f"started{again} on {', '.join(names) or 'no system'}")
        try:
            self._engine.start(folder, self._command(job, folder))
        except WaferError as error:
            self._not_before = time.monotonic() + _RETRY_S
            self._board.put(
                job, state="queued", systems=(), starts=job.starts - 1, reason=f"will be tried again: {error}"
            )
            return
        self.restarted += job.starts > 1
        self._board.put(
            job,
            state="initializing" if job.spec.tells_state else "running",
            reason="started",
            started=job.started or time.time(),
        )

    def _command(self, job: Job, folder: JobFolder) -> Command:
        spec = job.spec
        words = spec.command if job.starts == 1 or spec.resume_command is None else spec.resume_command
        values = {
            "{job}": str(folder.path),
            "{systems}": str(len(job.systems)),
            "{memoryx}": self._config.memoryx_of(job.id),
            "{python}": sys.executable,
            "{threads}": str(self._engine.threads() or self._config.threads),
        }

        def filled(text: str) -> str:
            for name, value in values.items():
                text = text.replace(name, value)
            return text

        own = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
        spread = None
        if spec.spread is not None:
            spread = Spread(
                options=tuple(map(filled, spec.spread.options)), agent=tuple(map(filled, spec.spread.agent))
            )
        return Command(
            words=[filled(word) for word in words],
            folder=filled(spec.folder),
            environment={
                **own,
                "PYTHONUNBUFFERED": "1",
                **{name: filled(value) for name, value in spec.environment.items()},
                "OPENWAFER_JOB": str(folder.path),
                "OPENWAFER_JOB_ID": job.id,
            },
            number=job.starts,
            systems=len(job.systems),
            spread=spread,
        )

    def _free_systems(self) -> list[str]:
        held = {name for job in self._board.holding() for name in job.systems}
        free = [name for name in self._systems.in_service if name not in held]
        there = self._engine.systems()
        return free if there is None else free[: max(0, there - len(held))]


def _last_line(folder: JobFolder) -> str:
    """The last line that the job's process wrote: mostly its error message."""
    with suppress(OSError, StorageError):
        size = folder.log.stat().st_size
        tail = read_from(folder.log, max(0, size - 4096)).decode(errors="replace")
        for line in reversed(tail.splitlines()):
            if line.strip() and not line.startswith("[wafer]"):
                return line.strip()
    return ""
