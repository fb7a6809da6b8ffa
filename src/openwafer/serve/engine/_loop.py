"""The engine's thread: take in, plan, submit, collect, choose, tell, and again."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import final

import torch

from openwafer.base import WaferError, logger
from openwafer.serve.engine._blocks import BlockManager
from openwafer.serve.engine._intake import Intake
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._request import FinishReason, Piece
from openwafer.serve.engine._runner import Flight, ModelRunner
from openwafer.serve.engine._scheduler import Scheduler
from openwafer.serve.engine._sequence import Group, Sequence
from openwafer.serve.engine._statistics import Meter
from openwafer.serve.engine._supply import Supply
from openwafer.serve.executors import BLOCK_TOKENS

_ENDED = {"stop": "stopped", "length": "cut", "cancelled": "cancelled", "error": "failed"}
_STOPPING = "the server is stopping"


@final
class Loop:
    """Runs what the intake gives on what the supply has. `run` is the thread's; other threads only read `scheduler`."""

    def __init__(self, intake: Intake, supply: Supply, limits: Limits, meter: Meter) -> None:
        self._intake = intake
        self._supply = supply
        self._limits = limits
        self._meter = meter
        self._runner = ModelRunner(supply.executor.config.vocabulary)
        self._flights: deque[Flight] = deque()
        self._told: list[tuple[Group, Piece]] = []
        self._broken = ""
        self._log = logger("engine")
        self.scheduler = self._new_scheduler()

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together: what the model was made for, and what the cache holds."""
        config = self._supply.executor.config
        return min(config.context_tokens, self.scheduler.blocks.total * BLOCK_TOKENS)

    def run(self) -> None:
        """Until the intake says that all has ended; closes the executor then."""
        with torch.inference_mode():
            while self._attend():
                try:
                    self._step()
                except Exception as error:
                    self._recover(error)
        self._deliver()
        self._runner.close()
        self._supply.executor.close()

    def _attend(self) -> bool:
        """Take in what came, until there is something to do; False when all has ended."""
        while True:
            if not self._busy:
                self._deliver()
            taken = self._intake.take(self._busy)
            if taken is None:
                return False
            came, cancelled = taken
            for group in cancelled:
                self._end_group(group, "cancelled", _STOPPING if self._intake.expired else "")
            for group in came:
                if group.cancelled:
                    self._end_group(group, "cancelled", _STOPPING if self._intake.expired else "")
                elif refused := group.refused or self._broken:
                    self._end_group(group, "error", refused)
                else:
                    self.scheduler.queue.push(group.sequences[0])
            if self._busy:
                return True

    @property
    def _busy(self) -> bool:
        return bool(self._flights or self.scheduler.running or len(self.scheduler.queue))

    def _step(self) -> None:
        """Keep the executor supplied; take one batch from it and tell what came of it."""
        began = time.perf_counter()
        executor, away = self._supply.executor, 0.0
        while len(self._flights) < executor.in_flight:
            before = self.scheduler.preemptions
            works = self.scheduler.plan()
            self._meter.add("preemptions", self.scheduler.preemptions - before)
            self._count_begun()
            if not works:
                break
            flight = self._runner.prepare(works)
            self._flights.append(flight)
            self._deliver()
            left = time.perf_counter()
            executor.submit(flight.batch)
            away += time.perf_counter() - left
        self._deliver()
        assert self._flights, "sequences wait and no batch can be made"
        left = time.perf_counter()
        logits = executor.collect()
        away += time.perf_counter() - left
        flight = self._flights.popleft()
        self._supply.worked()
        self._land(flight, self._runner.finish(flight, logits))
        self._meter.add("executor_s", away)
        self._meter.add("engine_s", time.perf_counter() - began - away)

    def _count_begun(self) -> None:
        while self.scheduler.begun:
            self._intake.begin(self.scheduler.begun.pop())
            self._meter.took_up()

    def _land(self, flight: Flight, accepted: list[int]) -> None:
        tokens = 0
        for work, count in zip(flight.works, accepted, strict=True):
            sequence, group = work.sequence, work.sequence.group
            new = len(sequence.tokens) - sequence.computed - work.count if work.complete else 0
            self.scheduler.land(work, count)
            self.scheduler.queue.charge(sequence, new)
            tokens += new
            if group.cancelled and sequence.finish is None:
                sequence.finish = "cancelled"
            if work.complete and not group.followed:
                self._follow(group)
            self._tell(sequence)
        self._meter.tokens(tokens)
        self._meter.add("completion_tokens", tokens)
        self._meter.add("batches")
        self._meter.add("batch_tokens", len(flight.batch.tokens_T))

    def _follow(self, group: Group) -> None:
        """The prompt is in the cache: the other choices may come."""
        group.followed = True
        self._meter.add("prompt_tokens", len(group.request.prompt))
        self._meter.add("cached_tokens", group.cached_tokens)
        if not group.cancelled:
            for follower in group.sequences[1:]:
                self.scheduler.queue.push_first(follower)

    # ---- telling

    def _tell(self, sequence: Sequence) -> None:
        """Have sent on what came; if that was the last of it, free what it has."""
        group = sequence.group
        piece = sequence.piece()
        if piece is None:
            return
        if piece.finish is not None:
            self.scheduler.remove(sequence)
            self._meter.add(_ENDED[piece.finish])
            self._meter.add("accepted_tokens", sequence.accepted)
            self._meter.add("rejected_tokens", sequence.rejected)
            group.unfinished -= 1
            if group.unfinished == 0:
                self._intake.end(group)
        self._told.append((group, piece))

    def _deliver(self) -> None:
        """Send on, when the next batch is ready: readers wake up at once, and take the interpreter for a while."""
        for group, piece in self._told:
            group.deliver(piece)
        self._told.clear()

    def _end_group(self, group: Group, finish: FinishReason, error: str) -> None:
        """End what is left of a request. What flies ends when it lands."""
        for sequence in group.sequences:
            if sequence.finish is None and not sequence.flying:
                sequence.finish, sequence.error = finish, error
                self._tell(sequence)

    # ---- failing

    def _recover(self, error: Exception) -> None:
        """The executor failed, or we did: end what was under way, and go on with what waits, on another executor."""
        self._log.error("the executor failed", error=str(error), exc_info=not isinstance(error, WaferError))
        self._count_begun()
        waiting = [s for s in self.scheduler.queue if s.group.admitted is None]
        begun = self._intake.begun
        for sequence in itertools.chain(waiting, *(group.sequences for group in begun)):
            sequence.lose_place()
        for flight in self._flights:
            flight.drop()
        self._flights.clear()
        self.scheduler = self._new_scheduler()
        for group in begun:
            self._end_group(group, "error", f"the model's executor failed: {error}")
        self._deliver()  # opening a model takes long
        self._broken = self._supply.replace(error)
        if self._broken:
            self._intake.refuse(self._broken)
        else:
            self.scheduler = self._new_scheduler()
        for sequence in waiting:
            if self._broken:
                self._end_group(sequence.group, "error", self._broken)
            elif len(sequence.tokens) + sequence.group.most_tokens > self.context_tokens:
                text = "the executor that was opened again has a smaller cache than this needs"
                self._end_group(sequence.group, "error", text)
            else:
                self.scheduler.queue.push(sequence)

    def _new_scheduler(self) -> Scheduler:
        executor = self._supply.executor
        return Scheduler(BlockManager(executor.blocks), self._limits, executor.in_flight)
