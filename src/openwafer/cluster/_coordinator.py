"""The coordinator of one job: places roles, feeds them steps, collects what they say, notices who is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from openwafer.artifact import Mode, Plan, SendValues
from openwafer.base import RoleLost, StallError, WaferError, logger
from openwafer.cluster._codec import encode_job
from openwafer.cluster._failures import rebuild_error
from openwafer.cluster._inputs import BatchFunction, batch_bytes
from openwafer.cluster._job import (
    Job,
    gradient_order,
    gradient_records,
    input_role,
    layers_for,
    load_order,
    memoryx,
    system_role,
    systems_of_stage,
)
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
from openwafer.cluster._roles import RoleStart, RunningRole
from openwafer.wire import Inbox, LocalTransport, SharedTransport, Transport, wait_any

AHEAD = 2
"""Steps that systems and MemoryX may have in hand: the next forward begins while the last updates run."""
INPUTS_AHEAD = 3


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


@dataclass(frozen=True, slots=True)
class CheckpointDone:
    step: int
    folder: str
    seconds: float


@dataclass
class _Pending:
    command: Step
    results: dict[int, Result] = field(default_factory=dict)
    updated: Updated | None = None
    fed: list[Fed] = field(default_factory=list)


Batches = Callable[[int], BatchFunction]
"""replica -> its batch function."""


class Coordinator:
    """Runs one job on this host. Use as a context manager; leaving it ends every role.

    `run(commands)` takes Step and SaveCheckpoint commands, in order, lazily, and yields StepDone and CheckpointDone. Commands
    are drawn ahead of results. Raises what a role reported, RoleLost if one just ended, StallError if nothing
    happens for `job.stall_s`.
    """

    def __init__(self, job: Job, batches: Batches, *, processes: bool, input_processes: bool = False) -> None:
        self.job = job
        self.plan = job.plan
        self.log = logger("coordinator")
        self.peak_rss: dict[str, int] = {}
        self._stack = ExitStack()
        self._transport: Transport = SharedTransport() if processes else LocalTransport()
        self._stack.enter_context(self._transport)
        self._roles: list[RunningRole] = []
        try:
            self._declare()
            self._start(batches, processes, input_processes)
            self.start_step = self._await_ready()
        except BaseException:
            self._give_up("the job could not start")
            raise

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._give_up("the coordinator stopped")
        else:
            self.stop()

    # --- life -----------------------------------------------------------------------------------------

    def _declare(self) -> None:
        plan, transport = self.plan, self._transport
        for name in self._names():
            transport.link("commands", "coordinator", name)
            transport.link("reports", name, "coordinator")
        if plan.store == "ram":
            readers = [system_role(i) for i in range(len(plan.systems))]
            transport.segment("store", sum(record.nbytes for record in plan.records), [memoryx(), *readers])
        for stage in range(plan.stages):
            members = systems_of_stage(plan, stage)
            slots, slot_bytes = weight_slots(plan, stage)
            transport.ring(
                f"weights{stage}",
                slots=slots,
                slot_bytes=slot_bytes,
                writer=memoryx(),
                readers=[system_role(i) for i in members],
            )
        for index, system in enumerate(plan.systems):
            slots, slot_bytes = gradient_slots(plan, index)
            transport.ring(
                "gradients",
                slots=slots,
                slot_bytes=slot_bytes,
                writer=system_role(index),
                readers=[memoryx()],
            )
            if plan.buffers and system.replica == 0:
                transport.link("buffers", system_role(index), memoryx())
        for replica in range(plan.replicas):
            members = [i for i, s in enumerate(plan.systems) if s.replica == replica]
            rows = sum(plan.systems[members[0]].rows)
            transport.ring(
                "batches",
                slots=INPUTS_AHEAD,
                slot_bytes=max(batch_bytes(self.job, rows), 1),
                writer=input_role(replica),
                readers=[system_role(i) for i in members],
            )
            for (source, target), (slots, slot_bytes) in value_rings(plan, members).items():
                transport.ring(
                    f"values{plan.systems[source].stage}to{plan.systems[target].stage}",
                    slots=slots,
                    slot_bytes=slot_bytes,
                    writer=system_role(source),
                    readers=[system_role(target)],
                )

    def _names(self) -> list[str]:
        return [
            memoryx(),
            *(system_role(i) for i in range(len(self.plan.systems))),
            *(input_role(r) for r in range(self.plan.replicas)),
        ]

    def _start(self, batches: Batches, processes: bool, input_processes: bool) -> None:
        data = encode_job(self.job)
        for name in self._names():
            kind = name.rstrip("0123456789")
            index = int(name[len(kind) :] or 0)
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
        ends = self._transport.endpoints("coordinator")
        self._inboxes = {name: ends.inbox("reports", name) for name in self._names()}
        self._outboxes = {name: ends.outbox("commands", name) for name in self._names()}

    def _await_ready(self) -> int:
        step = 0
        waiting = set(self._names())
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
            for outbox in self._outboxes.values():
                outbox.send(Stop())
            waiting = set(self._names())
            while waiting:
                report = self._next_report(expect_end=True)
                if isinstance(report, Ended):
                    waiting.discard(report.role)
                    self.peak_rss[report.role] = report.peak_rss
            for role in self._roles:
                role.join(10.0)
        except BaseException:
            self._give_up("the job could not be ended")
            raise
        self._stack.close()

    def _give_up(self, why: str) -> None:
        self._transport.abort(why)
        for role in self._roles:
            if not role.join(5.0):
                role.kill()
        self._stack.close()

    # --- steps ----------------------------------------------------------------------------------------

    def run(self, commands: Iterator[Step | SaveCheckpoint]) -> Iterator[StepDone | CheckpointDone]:
        """Carry out commands in order; see the class."""
        pending: deque[_Pending] = deque()
        drawn: deque[Step | SaveCheckpoint] = deque()
        saving = 0
        exhausted = False
        last = time.monotonic()
        while True:
            # 1. draw commands ahead: input workers see them first
            while not exhausted and len(drawn) + len(pending) < INPUTS_AHEAD:
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
                    self._outboxes[memoryx()].send(command)
                    saving += 1
                    continue
                pending.append(_Pending(command))
                self._tell(command, "system")
                self._outboxes[memoryx()].send(command)
            if not pending and not saving and exhausted and not drawn:
                return
            # 3. collect
            report = self._next_report()
            if isinstance(report, Result):
                self._entry(pending, report.step, report.train, report.system).results[report.system] = report
            elif isinstance(report, Updated):
                self._entry(pending, report.step, True).updated = report
            elif isinstance(report, Fed):
                for waiting in pending:
                    if waiting.command.number == report.step and waiting.command.train == report.train:
                        waiting.fed.append(report)
                        break
            elif isinstance(report, Saved):
                saving -= 1
                yield CheckpointDone(report.step, report.folder, report.seconds)
            while pending and self._is_done(pending[0]):
                now = time.monotonic()
                yield self._summary(pending.popleft(), now - last)
                last = now

    def _tell(self, command: Command, kind: str) -> None:
        for name, outbox in self._outboxes.items():
            if name.startswith(kind):
                outbox.send(command)

    @staticmethod
    def _entry(pending: deque[_Pending], step: int, train: bool, system: int = -1) -> _Pending:
        """The first command that still waits for this report; several evaluation batches belong to one step."""
        for entry in pending:
            if entry.command.number == step and entry.command.train == train and system not in entry.results:
                return entry
        raise WaferError(f"a role reported step {step}, which nobody asked for; this is a bug of openwafer")

    def _is_done(self, entry: _Pending) -> bool:
        return len(entry.results) == len(self.plan.systems) and (
            entry.updated is not None or not entry.command.train
        )

    def _summary(self, entry: _Pending, seconds: float) -> StepDone:
        results = tuple(entry.results[index] for index in sorted(entry.results))
        losses = [result.loss_sum for result in results if result.loss_sum is not None]
        metrics: dict[str, float] = {}
        for result in results:
            for label, value in result.metric_sums.items():
                metrics[label] = metrics.get(label, 0.0) + value / self.plan.batch
        spans = [span for result in results for span in result.spans]
        spans.extend(entry.updated.spans if entry.updated else ())
        return StepDone(
            step=entry.command.number,
            train=entry.command.train,
            loss=sum(losses) / self.plan.batch,
            metrics=metrics,
            logs=entry.updated.logs if entry.updated else {},
            samples=self.plan.batch,
            seconds=seconds,
            results=results,
            spans=tuple(spans),
            produce_s=max((fed.produce_s for fed in entry.fed), default=0.0),
            inputs_wait_s=max(result.inputs_wait_s for result in results),
            bad_layer=next((result.bad_layer for result in results if result.bad_layer), ""),
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
            raise StallError(f"nothing happened for {self.job.stall_s:.0f} s: {error}") from None
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
        raise self._explain_loss(lost)

    def _cause(self, failed: Failed) -> WaferError:
        """The failure to show: that of a role that broke, not of the peers that lost it."""
        if failed.kind == "RoleLost":
            deadline = time.monotonic() + 2.0
            while time.monotonic() < deadline:
                for name, inbox in self._inboxes.items():
                    try:
                        while inbox.poll():
                            report = inbox.receive(0, type=Report)
                            if isinstance(report, Failed) and report.kind != "RoleLost":
                                return rebuild_error(report)
                    except WaferError:
                        role = next(role for role in self._roles if role.name == name)
                        if not role.alive:
                            return self._explain_loss(None)
                time.sleep(0.02)
            return (
                self._explain_loss(None) if any(not r.alive for r in self._roles) else rebuild_error(failed)
            )
        return rebuild_error(failed)

    def _explain_loss(self, lost: RoleLost | None) -> WaferError:
        time.sleep(0.05)
        gone = [role for role in self._roles if not role.alive and role.name not in self.peak_rss]
        if gone:
            what = ", ".join(f"{role.name} {role.ending}" for role in gone)
            return RoleLost(
                f"{what} in the middle of the run (out of memory, or killed from outside); the last checkpoint is intact: run the "
                "same command again with --resume to go on from it"
            )
        return lost or RoleLost("a role ended without a word")


def weight_slots(plan: Plan, stage: int) -> tuple[int, int]:
    """(slots, bytes of each) of the ring that carries weights to a stage; references need none."""
    system = plan.systems[systems_of_stage(plan, stage)[0]]
    orders = [load_order(plan, system, train) for train in (True, False) if train or system.evaluation]
    copied = {
        index
        for order in orders
        for index in order
        if plan.store == "disk" or not plan.records[index].streams_as_stored
    }
    if not copied:
        return 0, 0
    slots = plan.slots if plan.mode is Mode.WEIGHT_STREAMING else max(len(order) for order in orders) + 1
    return slots, max(plan.records[index].stream_bytes for index in copied)


def gradient_slots(plan: Plan, index: int) -> tuple[int, int]:
    """(slots, bytes of each) of a system's gradient ring: what it fills at once, and one on its way."""
    system = plan.systems[index]
    order = gradient_order(plan, system)
    layers = layers_for(plan, system.rows[0], True)
    at_once = max((len(gradient_records(plan, layer)) for layer in layers), default=1)
    slots = at_once + 1 if plan.mode is Mode.WEIGHT_STREAMING else len(order) + 1
    return max(slots, 2), max((plan.records[record].gradient_bytes for _, record in order), default=4096)


def value_rings(plan: Plan, members: list[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """For a replica's systems: (sender, receiver) -> (slots, bytes of each) of the rings between stages."""
    by_stage = {plan.systems[index].stage: index for index in members}
    out: dict[tuple[int, int], tuple[int, int]] = {}
    for index in members:
        system = plan.systems[index]
        for train in (True, False):
            if not train and not system.evaluation:
                continue
            sizes: dict[str, int] = {}
            for size in set(system.rows):
                for layer in layers_for(plan, size, train):
                    for call in (layer.forward, layer.backward):
                        if call is not None:
                            body = plan.body[call.body]
                            for name, value in zip(call.outputs, body.outputs, strict=True):
                                sizes[name] = max(
                                    sizes.get(name, 0), -(-body.type_of(value).nbytes // 64) * 64
                                )
            for action in system.program if train else system.evaluation:
                if isinstance(action, SendValues):
                    key = (index, by_stage[action.peer])
                    need = sum(sizes[name] for name in action.values)
                    slots, most = out.get(key, (min(plan.stages, len(system.rows)) + 1, 1))
                    out[key] = (slots, max(most, need))
    return out


def encode_extra(extra: dict[str, object]) -> bytes:
    """What a checkpoint carries beside tensors."""
    return msgspec.msgpack.encode(extra)
