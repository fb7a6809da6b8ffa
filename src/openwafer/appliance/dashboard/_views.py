"""What the page asks for: the cluster with its jobs, and one job."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import final

import msgspec

from openwafer.appliance._folder import JobFolder
from openwafer.appliance._job import FINAL, STARTED, WAITING, Job
from openwafer.appliance._node import ManagementNode
from openwafer.appliance._queue import RESOURCES, rank
from openwafer.appliance._users import User
from openwafer.appliance._views import Resource
from openwafer.appliance.dashboard._history import History, Moment
from openwafer.appliance.dashboard._plan import Plans, PlanSummary
from openwafer.appliance.dashboard._processes import Processes, RoleUse, Sample
from openwafer.appliance.dashboard._series import Bucket, Series
from openwafer.appliance.dashboard._tail import Tails, read_plain

_SEARCHED = 1000
"""Of the jobs that have ended the newest are searched for a text."""
_MOST_FILES = 300
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job has come; `steps` is 0 where nobody said."""

    step: int
    steps: int
    loss: float | None
    samples_per_s: float | None
    step_s: float | None


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """One role of a running job: what the plan predicts, and what its process takes if it has one of its own."""

    name: str
    planned_bytes: int | None = None
    planned_disk_bytes: int = 0
    in_per_s: float | None = None
    """Bytes that the plan moves in a step, times the measured steps a second; so `out_per_s`."""
    out_per_s: float | None = None
    use: RoleUse | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the table. place: in the queue, 1 for the first, 0 if it is in none."""

    id: str
    name: str
    kind: str
    user: str
    state: str
    reason: str
    waits_for: str
    priority: int
    place: int
    created: float
    started: float | None
    ended: float | None
    systems: tuple[str, ...]
    asked_systems: int
    labels: dict[str, str]
    workflow: str | None
    restarts: int
    progress: Progress | None


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has something of the cluster. What is another user's has no id and no name."""

    id: str
    name: str
    user: str
    state: str
    systems: tuple[str, ...]
    compile_slots: int
    memoryx_bytes: int
    progress: Progress | None
    roles: tuple[Role, ...]


class SystemPlace(msgspec.Struct, frozen=True):
    """A system: the place of its job among the holders (-1: free), that job's role on it, and why it is out of service."""

    name: str
    holder: int
    role: str
    out_of_service: str


class HostPlace(msgspec.Struct, frozen=True):
    """A machine: how many systems it offers, and the places of its jobs among the holders."""

    name: str
    address: str
    systems: int
    holders: tuple[int, ...]


class BoardView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster and the jobs that the user asked for."""

    at: float
    version: str
    user: str
    admin: bool
    memoryx: str
    resources: list[Resource]
    systems: list[SystemPlace]
    hosts: list[HostPlace]
    """Empty where all is on the machine of the management node."""
    holders: list[Holder]
    counts: dict[str, int]
    """Jobs of the caller that have not ended, by state; an administrator's are everybody's."""
    users: list[str]
    labels: list[str]
    """Of jobs that have not ended: what can be filtered by."""
    jobs: list[Row]
    more: bool
    """Whether the limit left some out."""


class FileEntry(msgspec.Struct, frozen=True):
    """A file that the job left, by its name below the job's folder."""

    name: str
    size: int
    changed: float
    picture: bool


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a job's page shows but its log, its series and its timeline."""

    at: float
    version: str
    admin: bool
    job: Job
    place: int
    queued: int
    """Jobs that wait, everybody's."""
    progress: Progress | None
    values: dict[str, float]
    flops_per_s: float | None
    """The plan's arithmetic of a step over the measured time of one."""
    roles: tuple[Role, ...]
    samples: list[Sample]
    moments: list[Moment]
    plan: PlanSummary | None
    files: list[FileEntry]
    log_bytes: int
    timeline: float
    """When the run's timeline was last written; 0: there is none."""


class SeriesView(msgspec.Struct, frozen=True):
    """A run's numbers over its steps; evaluations as step and loss."""

    points: list[Bucket]
    evaluations: list[tuple[int, float]]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs the table shows. text: in a job's id, name, user, workflow, labels, reason, or what it waits for."""

    states: tuple[str, ...] = ()
    user: str | None = None
    labels: dict[str, str] = {}
    text: str = ""
    limit: int = 100

    def takes(self, job: Job) -> bool:
        """Whether the job is one of them."""
        if self.states and job.state not in self.states:
            return False
        if self.user is not None and job.user != self.user:
            return False
        if not self.labels.items() <= job.labels.items():
            return False
        words = self.text.lower().split()
        if not words:
            return True
        told = [job.id, job.spec.name, job.user, job.spec.kind, job.workflow or "", job.reason, job.waits_for]
        whole = "\n".join([*told, *(f"{name}={value}" for name, value in job.labels.items())]).lower()
        return all(word in whole for word in words)


@final
class Dashboard:
    """Views of a node's jobs. What is read of a job's files is remembered, so that looking again costs little.

    Methods block for as long as reading files takes, and may be called from any thread. They tell a user who does not
    administrate nothing of others' jobs but what they hold.
    """

    def __init__(self, node: ManagementNode, version: str) -> None:
        self._node = node
        self._version = version
        self._metrics: Tails[Series] = Tails(Series)
        self._events: Tails[Series] = Tails(Series)
        self._history: Tails[History] = Tails(History)
        self._plans = Plans()
        self._steps: dict[str, int] = {}
        self._processes = Processes()

    def board(self, user: User, wanted: Filter) -> BoardView:
        """The cluster, and the jobs that are wanted: those that run, those that wait in the order of the queue, the rest."""
        live = self._node.queue()
        mine = [job for job in live if user.admin or job.user == user.name]
        places = self._places(live)
        rows = sorted(filter(wanted.takes, mine), key=lambda job: (job.state in WAITING, rank(job)))
        ended_limit = max(0, wanted.limit + 1 - len(rows))
        rows += self._ended(user, wanted, ended_limit)
        total, free = self._node.amounts()
        holders = [job for job in live if job.state not in WAITING]
        number = {job.id: index for index, job in enumerate(holders)}
        return BoardView(
            at=time.time(),
            version=self._version,
            user=user.name,
            admin=user.admin,
            memoryx=self._node.config.memoryx,
            resources=[Resource(*row) for row in zip(RESOURCES, total, free, strict=True)],
            systems=[
                SystemPlace(
                    name, number.get(id, -1), _role_on(name, holders[number[id]]) if id in number else "", out
                )
                for name, id, out in self._node.systems()
            ],
            hosts=[
                HostPlace(
                    host.name,
                    host.address,
                    host.systems,
                    tuple(number[id] for id in host.jobs if id in number),
                )
                for host in self._node.hosts()
            ],
            holders=[self._holder(user, job) for job in holders],
            counts=dict(Counter(job.state for job in mine)),
            users=sorted({job.user for job in mine}),
            labels=sorted({f"{name}={value}" for job in mine for name, value in job.labels.items()})[:200],
            jobs=[self._row(job, places) for job in rows[: wanted.limit]],
            more=len(rows) > wanted.limit,
        )

    def job(self, user: User, job: Job) -> JobView:
        """One job, which the user may see."""
        folder = self._node.folder(job.id)
        places = self._places(self._node.queue())
        series = self._series(folder)
        plan = self._plans.of(folder.run / "plan.json")
        used, samples = self._processes.of(folder) if not job.is_final else ([], [])
        return JobView(
            at=time.time(),
            version=self._version,
            admin=user.admin,
            job=msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, environment={})),
            place=places.get(job.id, 0),
            queued=len(places),
            progress=self._progress(folder),
            values=series.values,
            flops_per_s=plan.flops_per_step / series.step_s if plan is not None and series.step_s else None,
            roles=_roles(plan, series if not job.is_final else None, used),
            samples=samples,
            moments=list(self._history.look(folder.events).moments),
            plan=plan,
            files=_files(folder),
            log_bytes=_size(folder.log),
            timeline=_changed(folder.run / "timeline.json"),
        )

    def series(self, job: Job, points: int) -> SeriesView:
        """The job's numbers over its steps, in at most so many points."""
        found = self._series(self._node.folder(job.id))
        return SeriesView(found.points(points), found.evaluations)

    def running(self) -> Iterable[tuple[Job, Progress | None, list[RoleUse]]]:
        """Every job that has a process now, how far it has come, and what its processes take."""
        for job in self._node.queue():
            if job.state in STARTED:
                folder = self._node.folder(job.id)
                yield job, self._progress(folder), self._processes.of(folder)[0]

    def _series(self, folder: JobFolder) -> Series:
        metrics = self._metrics.look(folder.run / "metrics.jsonl")
        # A client's job has no run folder of ours: its coordinator tells each step.
        return metrics if metrics.step or metrics.evaluations else self._events.look(folder.events)

    def _progress(self, folder: JobFolder) -> Progress | None:
        series = self._series(folder)
        steps = series.steps or self._steps_of(folder)
        if not series.step and not steps:
            return None
        return Progress(
            step=series.step,
            steps=steps,
            loss=series.loss,
            samples_per_s=series.samples_per_s,
            step_s=series.step_s,
        )

    def _steps_of(self, folder: JobFolder) -> int:
        """How many steps the run's config asks for. It is written once, so it is read once."""
        name = folder.path.name
        if name not in self._steps:
            try:
                told = msgspec.json.decode(read_plain(folder.run / "config.json", 1 << 24), type=_Config)
            except (OSError, msgspec.MsgspecError):
                return 0
            if len(self._steps) > 10_000:
                self._steps.clear()
            self._steps[name] = told.steps
        return self._steps[name]

    def _places(self, live: Iterable[Job]) -> dict[str, int]:
        waiting = sorted((job for job in live if job.state in WAITING), key=rank)
        return {job.id: place for place, job in enumerate(waiting, 1)}

    def _ended(self, user: User, wanted: Filter, limit: int) -> list[Job]:
        states = tuple(state for state in wanted.states or FINAL if state in FINAL)
        if not states or not limit or (not user.admin and wanted.user not in (None, user.name)):
            return []
        found = self._node.jobs(
            states=states,
            user=wanted.user if user.admin else user.name,
            labels=wanted.labels,
            limit=_SEARCHED if wanted.text else limit,
        )
        # One that ended since the others were counted is in both lists.
        return [job for job in found if job.is_final and wanted.takes(job)][:limit]

    def _holder(self, user: User, job: Job) -> Holder:
        mine = user.admin or job.user == user.name
        folder = self._node.folder(job.id)
        runs = mine and job.state in STARTED
        series = self._series(folder) if runs else None
        plan = self._plans.of(folder.run / "plan.json") if runs else None
        return Holder(
            id=job.id if mine else "",
            name=job.spec.name if mine else "",
            user=job.user if mine else "",
            state=job.state,
            systems=job.systems,
            compile_slots=job.spec.compile_slots,
            memoryx_bytes=job.spec.memoryx_bytes,
            progress=self._progress(folder) if runs else None,
            roles=_roles(plan, series, self._processes.of(folder)[0]) if runs else (),
        )

    def _row(self, job: Job, places: Mapping[str, int]) -> Row:
        return Row(
            id=job.id,
            name=job.spec.name,
            kind=job.spec.kind,
            user=job.user,
            state=job.state,
            reason=job.reason,
            waits_for=job.waits_for,
            priority=job.priority,
            place=places.get(job.id, 0),
            created=job.created,
            started=job.started,
            ended=job.ended,
            systems=job.systems,
            asked_systems=job.spec.systems,
            labels=job.labels,
            workflow=job.workflow,
            restarts=job.restarts,
            progress=self._progress(self._node.folder(job.id)) if job.state in STARTED else None,
        )


class _Config(msgspec.Struct):
    steps: int = 0


def _role_on(system: str, job: Job) -> str:
    """The granted systems carry the job's systems in their order."""
    return f"system{job.systems.index(system)}" if system in job.systems else ""


def _roles(plan: PlanSummary | None, series: Series | None, used: Iterable[RoleUse]) -> tuple[Role, ...]:
    """Planned roles in the plan's order, then those that only have a process."""
    uses = {use.name: use for use in used}
    rate = 1 / series.step_s if series is not None and series.step_s else None
    per_s: Callable[[int], float | None] = lambda amount: None if rate is None else amount * rate  # noqa: E731
    roles = [
        Role(
            name=role.name,
            planned_bytes=role.memory_bytes,
            planned_disk_bytes=role.disk_bytes,
            in_per_s=per_s(role.in_bytes),
            out_per_s=per_s(role.out_bytes),
            use=uses.pop(role.name, None),
        )
        for role in (plan.roles if plan is not None else ())
    ]
    return (*roles, *(Role(name=use.name, use=use) for use in uses.values()))


def _files(folder: JobFolder) -> list[FileEntry]:
    """What a job left for people: of its run, its artefacts and its source, without checkpoints; the newest first."""
    found: list[FileEntry] = []
    root = folder.path.resolve()
    for place in (folder.log, folder.spec, folder.run, folder.artefacts, folder.source):
        for path in _walk(place, 3):
            try:
                stat = path.stat()
            except OSError:
                continue
            name = str(path.relative_to(folder.path))
            if path.resolve().is_relative_to(root):
                picture = path.suffix.lower() in _PICTURES and stat.st_size < 16 << 20
                found.append(FileEntry(name, stat.st_size, stat.st_mtime, picture))
            if len(found) >= _MOST_FILES:
                break
    return sorted(found, key=attrgetter("changed"), reverse=True)


def _walk(place: Path, depth: int) -> Iterable[Path]:
    try:
        if place.is_file():
            yield place
        elif depth and place.is_dir() and place.name not in ("checkpoints", "tensorboard"):
            for entry in sorted(place.iterdir()):
                yield from _walk(entry, depth - 1)
    except OSError:
        return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
