"""The coordinator of one job: places roles, feeds them steps, collects what they say, notices who is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec
from torch import Tensor

from openwafer.artifact import BATCH_SLOTS
from openwafer.base import RoleLost, StallError, WaferError, logger
from openwafer.cluster._codec import encode_job
from openwafer.cluster._failures import rebuild_error
from openwafer.cluster._hosts import Hosts
from openwafer.cluster._hosts_attempt import RemoteRole
from openwafer.cluster._hosts_messages import HOME
from openwafer.cluster._inputs import BatchFunction
from openwafer.cluster._job import Job, memoryx, system_role
from openwafer.cluster._memory import release_freed
from openwafer.cluster._messages import (
    Command,
    Ended,
    Failed,
    Fed,
    Ready,
    Report,
    Result,
    SaveCheckpoint,
    Saved,
    Span,
    Step,
    Stop,
    Updated,
)
from openwafer.cluster._outputs import Outputs, Parts
from openwafer.cluster._roles import RoleStart, RunningRole, kind_and_index
from openwafer.cluster._wiring import COORDINATOR, declare, role_names
from openwafer.wire import Inbox, LocalTransport, SharedTransport, Transport, wait_any

AHEAD = 2
"""Steps that systems and MemoryX may have in hand: the next forward begins while the last updates run."""
LEAVE_S, HURRY_S = 5.0, 0.5
"""How long roles may take to leave, by themselves and when the user is waiting."""
CAUSE_S = 2.0
"""How long the reports and the deaths of roles that fail together may lie apart."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step, complete on all systems and in MemoryX."""

    step: int
    train: bool
    loss: float
    metrics: dict[str, float]
    logs: dict[str, float]
    samples: int
    seconds: float
    """Since the step before was done."""
    results: tuple[Result, ...]
    spans: tuple[Span, ...]
    produce_s: float
    """Longest time that an input worker took for its batch."""
    inputs_wait_s: float
    """Longest time that a system waited for its batch."""
    bad_layer: str
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the plan's steps hand out, whole."""


@dataclass(frozen=True, slots=True)
class CheckpointDone:
    """A checkpoint is on disk; or was refused because tensor `bad` is not finite: then nothing was written."""

    step: int
    folder: str
    seconds: float
    bad: str = ""


@dataclass
class _Pending:
    command: Step
    results: dict[int, Result] = field(default_factory=dict)
    updated: dict[int, Updated] = field(default_factory=dict)
    fed: list[Fed] = field(default_factory=list)
    outputs: Parts = field(default_factory=dict)


Batches = Callable[[int], BatchFunction]
"""replica -> its batch function."""


class Coordinator:
    """Runs one job on this host. Use as a context manager; leaving it ends every role.

    `run(commands)` takes Step and SaveCheckpoint commands, in order, lazily, and yields StepDone and CheckpointDone. Commands
    are drawn ahead of results. Raises what a role reported, RoleLost if one just ended, StallError if nothing
    happens for `job.stall_s`.
    """

    def __init__(
        self,
        job: Job,
        batches: Batches,
        *,
        processes: bool,
        input_processes: bool = False,
        hosts: Hosts | None = None,
    ) -> None:
        """hosts: where the systems run; None: on this host. Everything else always does."""
        self.job = job
        self.plan = job.plan
        self.log = logger("coordinator")
        self.peak_rss: dict[str, int] = {}
        self.peak_device: dict[str, int] = {}
        """Of the systems that have memory of their own."""
        self._stack = ExitStack()
        self._names = role_names(self.plan)
        self._roles: list[RunningRole | RemoteRole] = []
        self._attempt = hosts.begin(job, processes) if hosts is not None else None
        if self._attempt is not None:
            self._transport: Transport = self._attempt.transport
            self._roles.extend(self._attempt.roles.values())
        else:
            self._transport = SharedTransport() if processes else LocalTransport()
        self._stack.enter_context(self._transport)
        try:
            if self._attempt is None:
                declare(self._transport, job, dict.fromkeys(self._names, HOME))
            self._start(batches, processes, input_processes)
            self.start_step = self._await_ready()
        except BaseException:
            self._give_up("the job could not start")
            raise

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._give_up("the coordinator stopped", HURRY_S if kind is KeyboardInterrupt else LEAVE_S)
        else:
            self.stop()

    # --- life -----------------------------------------------------------------------------------------

    def _start(self, batches: Batches, processes: bool, input_processes: bool) -> None:
        release_freed()  # of planning, of initial weights, of what was measured: roles allocate anew
        data = encode_job(self.job)
        # Input workers first: theirs is what may not pickle.
        elsewhere = self._attempt.roles if self._attempt is not None else {}
        names = [name for name in self._names if name not in elsewhere]
        for name in sorted(names, key=lambda name: not name.startswith("input")):
            kind, index = kind_and_index(name)
            apart = processes and (kind != "input" or input_processes)
            start = RoleStart(
                name=name,
                kind=kind,
                index=index,
                job=data,
                endpoints=self._transport.endpoints(name),
                batches=batches(index) if kind == "input" else None,
            )
            self._roles.append(RunningRole(start, apart))
        self._transport.started()
        ends = self._transport.endpoints(COORDINATOR)
        self._inboxes = {name: ends.inbox("reports", name) for name in self._names}
        self._outputs = Outputs(self.plan, ends)
        self._outboxes = {name: ends.outbox("commands", name) for name in self._names}

    def _await_ready(self) -> int:
        step = 0
        waiting = set(self._names)
        while waiting:
            report = self._next_report()
            if isinstance(report, Ready):
                waiting.discard(report.role)
                if report.role == memoryx():
                    step = report.step
        return step

    def stop(self) -> None:
        """Let every role finish what it has, then end. MemoryX leaves its store complete."""
        try:
            for name in self._names:
                self._send(name, Stop())
            waiting = set(self._names)
            while waiting:
                report = self._next_report(expect_end=True)
                if isinstance(report, Ended):
                    waiting.discard(report.role)
                    self.peak_rss[report.role] = report.peak_rss
                    if report.peak_device:
                        self.peak_device[report.role] = report.peak_device
        except BaseException:
            self._give_up("the job could not be ended")
            raise
        self._join(LEAVE_S)
        self._stack.close()

    def _give_up(self, why: str, within_s: float = LEAVE_S) -> None:
        self._transport.abort(why)
        self._join(within_s)
        self._stack.close()

    def _join(self, within_s: float) -> None:
        """Wait for all roles to end; a process that has not by then is killed."""
        end = time.monotonic() + within_s
        if self._attempt is not None:
            self._attempt.end(within_s)
        for role in self._roles:
            if not role.join(max(0.0, end - time.monotonic())):
                role.kill()

    # --- steps ----------------------------------------------------------------------------------------

    def run(self, commands: Iterator[Step | SaveCheckpoint]) -> Iterator[StepDone | CheckpointDone]:
        """Carry out commands in order; see the class."""
        pending: deque[_Pending] = deque()
        drawn: deque[Step | SaveCheckpoint] = deque()
        saving = 0
        refused: deque[CheckpointDone] = deque()
        exhausted = False
        last = time.monotonic()
        while True:
            # 1. draw commands ahead: input workers see them first
            while not exhausted and len(drawn) + len(pending) < BATCH_SLOTS:
                command = next(commands, None)
                if command is None:
                    exhausted = True
                    break
                drawn.append(command)
                if isinstance(command, Step):
                    self._tell(command, "input")
            # 2. hand them on
            while drawn and len(pending) < AHEAD:
                command = drawn.popleft()
                if isinstance(command, SaveCheckpoint):
                    self._tell(command, memoryx())
                    saving += 1
                    continue
                pending.append(_Pending(command))
                self._tell(command, "system")
                self._tell(command, memoryx())
            if not pending and not saving and exhausted and not drawn:
                return
            # 3. collect
            report = self._next_report()
            if isinstance(report, Result):
                entry = self._entry(pending, report.step, report.train, report.system)
                entry.results[report.system] = report
                if report.train:
                    entry.outputs |= self._outputs.take_system(report.system, self.job.stall_s)
            elif isinstance(report, Updated):
                entry = self._entry(pending, report.step, True)
                entry.updated[report.shard] = report
                if report.shard == 0:
                    entry.outputs |= self._outputs.take_update(self.job.stall_s)
            elif isinstance(report, Fed):
                for waiting in pending:
                    if waiting.command.number == report.step and waiting.command.train == report.train:
                        waiting.fed.append(report)
                        break
            elif isinstance(report, Saved):
                saving -= 1
                saved = CheckpointDone(report.step, report.folder, report.seconds, report.bad)
                if saved.bad:
                    refused.append(saved)  # told after its step, whose loss may say more
                else:
                    yield saved
            while pending and self._is_done(pending[0]):
                now = time.monotonic()
                yield self._summary(pending.popleft(), now - last)
                last = now
            while refused and not any(
                entry.command.train and entry.command.number < refused[0].step for entry in pending
            ):
                yield refused.popleft()

    def _tell(self, command: Command, kind: str) -> None:
        for name in self._names:
            if name.startswith(kind):
                self._send(name, command)

    def _send(self, name: str, command: Command) -> None:
        """Give a role a command. If it has gone, raises why."""
        try:
            self._outboxes[name].send(command, self.job.stall_s)
        except RoleLost as error:
            raise self._cause(error) from None

    @staticmethod
    def _entry(pending: deque[_Pending], step: int, train: bool, system: int = -1) -> _Pending:
        """The first command that still waits for this report; several evaluation batches belong to one step."""
        for entry in pending:
            if entry.command.number == step and entry.command.train == train and system not in entry.results:
                return entry
        raise WaferError(f"a role reported step {step}, which nobody asked for; this is a bug of openwafer")

    def _is_done(self, entry: _Pending) -> bool:
        return len(entry.results) == len(self.plan.systems) and (
            len(entry.updated) == len(self.plan.memoryx_records) or not entry.command.train
        )

    def _summary(self, entry: _Pending, seconds: float) -> StepDone:
        results = tuple(
            msgspec.structs.replace(
                entry.results[index],
                spans=self._on_this_clock(system_role(index), entry.results[index].spans),
            )
            for index in sorted(entry.results)
        )
        losses = [result.loss_sum for result in results if result.loss_sum is not None]
        metrics: dict[str, float] = {}
        for result in results:
            for label, value in result.metric_sums.items():
                metrics[label] = metrics.get(label, 0.0) + value / self.plan.batch
        spans = [span for result in results for span in result.spans]
        for shard in sorted(entry.updated):
            spans.extend(self._on_this_clock(memoryx(shard), entry.updated[shard].spans))
        return StepDone(
            step=entry.command.number,
            train=entry.command.train,
            loss=sum(losses) / self.plan.batch,
            metrics=metrics,
            logs=entry.updated[0].logs if entry.updated else {},
            samples=self.plan.batch,
            seconds=seconds,
            results=results,
            spans=tuple(spans),
            produce_s=max((fed.produce_s for fed in entry.fed), default=0.0),
            inputs_wait_s=max(result.inputs_wait_s for result in results),
            bad_layer=next((result.bad_layer for result in results if result.bad_layer), ""),
            outputs=self._outputs.join(entry.outputs) if entry.command.train else {},
        )

    def _on_this_clock(self, role: str, spans: tuple[Span, ...]) -> tuple[Span, ...]:
        """A role's spans on this host's clock and not on that of the role's."""
        ahead_s = self._attempt.clock_ahead_s.get(role, 0.0) if self._attempt else 0.0
        if not ahead_s:
            return spans
        return tuple(
            Span(span.lane, span.name, span.start_s - ahead_s, span.end_s - ahead_s) for span in spans
        )

    # --- reports --------------------------------------------------------------------------------------

    def _next_report(self, expect_end: bool = False) -> Report:
        """The next report of any role. Raises what a role reported as its failure, RoleLost, StallError."""
        open_inboxes = [
            inbox for name, inbox in self._inboxes.items() if not (expect_end and name in self.peak_rss)
        ]
        try:
            ready = wait_any(open_inboxes, self.job.stall_s)
        except StallError as error:
            nothing = StallError(f"nothing happened for {self.job.stall_s:.0f} s: {error}")
            raise self._cause(nothing) from None
        lost: RoleLost | None = None
        for inbox in ready:
            assert isinstance(inbox, Inbox)
            try:
                report: Report = inbox.receive(0, type=Report)
            except RoleLost as error:
                lost = error
                continue
            if isinstance(report, Failed):
                raise self._cause(report)
            return report
        assert lost is not None
        raise self._cause(lost)

    def _cause(self, first: Failed | RoleLost | StallError) -> WaferError:
        """What to show of several failures: a role's own error, else the death of a role, else what its peers saw.

        One role that hangs makes others wait for it, and others for these, who all give up at the same moment.
        """
        seen = [first] if isinstance(first, Failed) else []
        gone: set[str] = set()
        end = time.monotonic() + CAUSE_S
        while True:
            for report in seen:
                if report.kind not in (RoleLost.__name__, StallError.__name__):
                    return rebuild_error(report)
            if gone or time.monotonic() > end:
                break
            time.sleep(0.02)
            for name, inbox in self._inboxes.items():
                try:
                    while inbox.poll():
                        report = inbox.receive(0, type=Report)
                        if isinstance(report, Failed):
                            seen.append(report)
                        elif isinstance(report, Ended):
                            self.peak_rss[name] = report.peak_rss
                except RoleLost:
                    if name not in self.peak_rss and all(report.role != name for report in seen):
                        gone.add(name)
        if gone:
            return self._lost(gone)
        stalls = [report for report in seen if report.kind == StallError.__name__]
        if len(stalls) > 1:
            waits = ", ".join(sorted(report.text.partition(";")[0] for report in stalls))
            return StallError(f"{waits}; see what these roles are doing, or allow more time (stall_s)")
        if stalls:
            return rebuild_error(stalls[0])
        return rebuild_error(first) if isinstance(first, Failed) else first

    def _lost(self, gone: set[str]) -> RoleLost:
        for role in self._roles:
            if role.name in gone:
                role.join(CAUSE_S)  # a process's pipes close a moment before its exit code is known
        what = ", ".join(f"{role.name} {role.ending}" for role in self._roles if role.name in gone)
        return RoleLost(
            f"{what} in the middle of the run (out of memory, or killed from outside); the last checkpoint is "
            "intact: run the same command again with --resume to go on from it"
        )


def encode_extra(extra: dict[str, object]) -> bytes:
    """What a checkpoint carries beside tensors."""
    return msgspec.msgpack.encode(extra)
