"""Requests in, pieces out: the thread in which everything runs."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import final

import torch

from openwafer.base import ContextLengthError, EngineError, InputError, QueueFullError, WaferError, logger
from openwafer.serve.engine._answer import Answer
from openwafer.serve.engine._blocks import BlockManager
from openwafer.serve.engine._grammar import Grammars, Matcher
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._request import FinishReason, Request
from openwafer.serve.engine._runner import Flight, ModelRunner
from openwafer.serve.engine._scheduler import Scheduler
from openwafer.serve.engine._sequence import Group, Sequence
from openwafer.serve.engine._statistics import Meter, Statistics
from openwafer.serve.executors import BLOCK_TOKENS, Executor
from openwafer.serve.text import Tokenizer

_RESTARTS_IN_A_ROW = 3
_ENDED = {"stop": "stopped", "length": "cut", "cancelled": "cancelled", "error": "failed"}


@final
class Engine:
    """Answers requests on an executor, many at a time, in a thread of its own. Every request that it takes ends.

    `submit`, `statistics`, `stop` and an answer's `cancel` may be called by any thread.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        *,
        reopen: Callable[[], Executor] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """executor: used by this engine alone from now on, and closed by it.

        reopen: opens another one when it failed. Answers under way are lost then, requests that wait are not. Without it,
        or if it raises, or if three of them in a row fail at once, the engine ends what waits and takes no more.
        """
        self._executor = executor
        self._tokenizer = tokenizer
        self._reopen = reopen
        self._limits = limits or Limits()
        config = executor.config
        self._vocabulary = config.vocabulary
        own = {*config.eos_tokens, *tokenizer.end_tokens}
        self._end_tokens = frozenset(t for t in own if 0 <= t < config.vocabulary)
        self._grammars = Grammars(tokenizer, config.vocabulary, self._end_tokens)
        self._runner = ModelRunner(config.vocabulary)
        self._scheduler = self._new_scheduler()
        self._flights: deque[Flight] = deque()
        self._meter = Meter()
        self._log = logger("engine")
        self._orders = itertools.count()
        self._failures = 0
        # What other threads touch, under the lock:
        self._changed = threading.Condition(threading.RLock())
        self._came: list[Group] = []
        self._cancelled: list[Group] = []
        self._open: dict[int, Group] = {}
        self._waiting = 0
        self._refusal = ""
        self._stop_at: float | None = None
        self._broken = ""
        self._expired = False
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together: what the model was made for, and what the cache holds."""
        return min(self._executor.config.context_tokens, self._scheduler.blocks.total * BLOCK_TOKENS)

    def submit(self, request: Request, client: str = "") -> Answer:
        """Take a request; its pieces come in the answer. client: whose turn it takes among those that wait.

        Raises InputError for a request that makes no sense, ContextLengthError if prompt and answer are longer than
        `context_tokens`, QueueFullError if as many wait as may, EngineError if the engine stops or has failed for good.
        """
        most_tokens = self._check(request)
        answer: Answer
        with self._changed:
            if self._refusal:
                raise EngineError(self._refusal)
            if self._waiting >= self._limits.waiting:
                self._meter.add("refused")
                wait_s = self._meter.wait_s(self._waiting)
                raise QueueFullError(
                    f"the queue is full: {self._waiting} requests wait, and there are {self._limits.waiting} places; "
                    f"the last of them waits about {wait_s:.0f} s; come again later",
                    retry_after_s=max(1.0, wait_s / 2),
                )
            group = Group(
                request, client, next(self._orders), most_tokens, lambda piece: answer.deliver(piece)
            )
            answer = Answer(request.n, lambda: self._cancel(group))
            self._open[group.order] = group
            self._waiting += 1
            self._meter.add("requests")
            if request.grammar is None:
                self._enter(group)
            else:
                # A large grammar takes a second to compile: neither this thread nor the engine's has it to spare.
                self._compiler.submit(self._enter, group)
        return answer

    def statistics(self) -> Statistics:
        """Numbers of this moment."""
        total = self._meter.total
        with self._changed:
            waiting = self._waiting
        scheduler = self._scheduler
        blocks = scheduler.blocks
        return Statistics(
            waiting=waiting,
            running=len(scheduler.running),
            preempted=scheduler.queue.returned,
            queue_wait_s=self._meter.wait_s(waiting),
            tokens_per_s=self._meter.tokens_per_s(),
            blocks=blocks.total,
            blocks_used=blocks.total - blocks.available,
            blocks_cached=blocks.idle,
            requests_total=int(total("requests")),
            refused_total=int(total("refused")),
            stopped_total=int(total("stopped")),
            cut_total=int(total("cut")),
            cancelled_total=int(total("cancelled")),
            failed_total=int(total("failed")),
            prompt_tokens_total=int(total("prompt_tokens")),
            cached_tokens_total=int(total("cached_tokens")),
            completion_tokens_total=int(total("completion_tokens")),
            accepted_tokens_total=int(total("accepted")),
            rejected_tokens_total=int(total("rejected")),
            preemptions_total=int(total("preemptions")),
            batches_total=int(total("batches")),
            batch_tokens_total=int(total("batch_tokens")),
            executor_s_total=total("executor_s"),
            engine_s_total=total("engine_s"),
            restarts_total=int(total("restarts")),
        )

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let those taken end for so many seconds, cancel the rest, close the executor.

        Returns when all of that is done; may be called twice.
        """
        with self._changed:
            self._refusal = (
                self._refusal or "the server is stopping and takes no more requests; try another one"
            )
            stop_at = time.monotonic() + drain_s
            self._stop_at = stop_at if self._stop_at is None else min(stop_at, self._stop_at)
            self._changed.notify()
        self._thread.join()
        self._compiler.shutdown(wait=True, cancel_futures=True)

    # What other threads call ends here: from now on, the engine's own thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while self._attend():
                try:
                    self._step()
                except Exception as error:
                    self._recover(error)
        self._executor.close()

    def _attend(self) -> bool:
        """Take in what came, wait if there is nothing to do; False when the engine has stopped."""
        while True:
            with self._changed:
                while not (self._came or self._cancelled or self._busy or self._due):
                    wait_s = None
                    if self._stop_at is not None and not self._expired:
                        wait_s = max(0.0, self._stop_at - time.monotonic())
                    self._changed.wait(wait_s)
                came, self._came = self._came, []
                cancelled, self._cancelled = self._cancelled, []
                if self._stop_at is not None and not self._expired and time.monotonic() >= self._stop_at:
                    self._expired = True
                    cancelled = [*self._open.values()]
                if self._stop_at is not None and not self._open:
                    return False
            for group in cancelled:
                group.cancelled = True
                self._end_group(group, "cancelled", "the server is stopping" if self._expired else "")
            for group in came:
                if group.cancelled:
                    self._end_group(group, "cancelled", "the server is stopping" if self._expired else "")
                elif refused := group.refused or self._broken:
                    self._end_group(group, "error", refused)
                else:
                    self._scheduler.queue.push(group.sequences[0])
            if self._busy:
                return True

    @property
    def _busy(self) -> bool:
        return bool(self._flights or self._scheduler.running or len(self._scheduler.queue))

    @property
    def _due(self) -> bool:
        if self._stop_at is None:
            return False
        return not self._open or (not self._expired and time.monotonic() >= self._stop_at)

    def _step(self) -> None:
        """Keep the executor supplied; take one batch from it and tell what came of it."""
        began = time.perf_counter()
        away = 0.0
        while len(self._flights) < self._executor.in_flight:
            before = self._scheduler.preemptions
            works = self._scheduler.plan()
            self._meter.add("preemptions", self._scheduler.preemptions - before)
            if not works:
                break
            flight = self._runner.prepare(works)
            self._flights.append(flight)
            for work in works:
                self._take_up(work.sequence.group)
            left = time.perf_counter()
            self._executor.submit(flight.batch)
            away += time.perf_counter() - left
        assert self._flights, "sequences wait and no batch can be made"
        left = time.perf_counter()
        logits = self._executor.collect()
        away += time.perf_counter() - left
        flight = self._flights.popleft()
        self._failures = 0
        self._finish(flight, self._runner.finish(flight, logits))
        self._meter.add("executor_s", away)
        self._meter.add("engine_s", time.perf_counter() - began - away)

    def _take_up(self, group: Group) -> None:
        if group.admitted is None:
            group.admitted = time.monotonic()
            self._meter.took_up()
            self._meter.add("prompt_tokens", len(group.request.prompt))
            self._meter.add("cached_tokens", group.cached_tokens)
            with self._changed:
                self._waiting -= 1

    def _finish(self, flight: Flight, accepted: list[int]) -> None:
        tokens = 0
        for work, count in zip(flight.works, accepted, strict=True):
            sequence, group = work.sequence, work.sequence.group
            new = len(sequence.tokens) - sequence.computed - work.count if work.complete else 0
            self._scheduler.land(work, count)
            self._scheduler.queue.charge(sequence, new)
            tokens += new
            if group.cancelled and sequence.finish is None:
                sequence.finish = "cancelled"
            if work.complete and not group.followed and not group.cancelled:
                group.followed = True
                for follower in group.sequences[1:]:
                    self._scheduler.queue.push_first(follower)
            self._tell(sequence)
        self._meter.tokens(tokens)
        self._meter.add("completion_tokens", tokens)
        self._meter.add("batches")
        self._meter.add("batch_tokens", len(flight.batch.tokens_T))

    def _tell(self, sequence: Sequence) -> None:
        """Send on what came; if that was the last of it, free what it has."""
        group = sequence.group
        piece = sequence.piece()
        if piece is None:
            return
        if piece.finish is not None:
            self._scheduler.remove(sequence)
            self._meter.add(_ENDED[piece.finish])
            self._meter.add("accepted", sequence.accepted)
            self._meter.add("rejected", sequence.rejected)
            group.unfinished -= 1
            if group.unfinished == 0:
                with self._changed:
                    del self._open[group.order]
                    self._waiting -= group.admitted is None
        group.deliver(piece)

    def _end_group(self, group: Group, finish: FinishReason, error: str) -> None:
        """End what is left of a request. What flies ends when it lands."""
        for sequence in group.sequences:
            if sequence.finish is None and not sequence.flying:
                sequence.finish, sequence.error = finish, error
                self._tell(sequence)

    def _recover(self, error: Exception) -> None:
        """The executor failed, or we did: end what was under way, and go on with what waits, on another executor."""
        self._log.error("the executor failed", error=str(error), exc_info=not isinstance(error, WaferError))
        waiting = [s for s in self._scheduler.queue if s.group.admitted is None]
        with self._changed:
            begun = [group for group in self._open.values() if group.admitted is not None]
        for sequence in itertools.chain(waiting, *(group.sequences for group in begun)):
            sequence.lose_place()
        self._flights.clear()
        self._scheduler = self._new_scheduler()
        for group in begun:
            self._end_group(group, "error", f"the model's executor failed: {error}")
        self._failures += 1
        self._broken = self._replace_executor(error)
        if self._broken:
            with self._changed:
                self._refusal = self._broken
        for sequence in waiting:
            too_long = len(sequence.tokens) + sequence.group.most_tokens > self.context_tokens
            if self._broken or too_long:
                text = (
                    self._broken or "the executor that was opened again has a smaller cache than this needs"
                )
                self._end_group(sequence.group, "error", text)
            else:
                self._scheduler.queue.push(sequence)

    def _replace_executor(self, error: Exception) -> str:
        """Open another executor; why not, if that failed."""
        self._executor.close()
        if self._reopen is None:
            return f"the model's executor failed: {error}; start the server again"
        if self._failures > _RESTARTS_IN_A_ROW:
            return (
                f"the model's executor failed {self._failures} times in a row: {error}; see the server's log"
            )
        try:
            self._executor = self._reopen()
        except Exception as again:
            return f"the model's executor failed ({error}) and could not be opened again: {again}"
        self._scheduler = self._new_scheduler()
        self._meter.add("restarts")
        self._log.info("the executor was opened again", blocks=self._executor.blocks)
        return ""

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(BlockManager(self._executor.blocks), self._limits, self._executor.in_flight)

    # Called by other threads as well.

    def _check(self, request: Request) -> int:
        """How many tokens each choice may have."""
        if not request.prompt or request.n < 1:
            raise InputError(
                f"a request needs a prompt and a choice; this has {len(request.prompt)} tokens and n={request.n}"
            )
        for name, tokens in (("prompt", request.prompt), ("logit_bias", request.sampling.logit_bias)):
            wrong = next((t for t in tokens if not 0 <= t < self._vocabulary), None)
            if wrong is not None:
                raise InputError(
                    f"{name}: {wrong} is no token; this model's go from 0 to {self._vocabulary - 1}"
                )
        limit, prompt = self.context_tokens, len(request.prompt)
        asked = request.max_tokens if request.max_tokens is not None else max(1, limit - prompt)
        if prompt + asked > limit:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens and the answer may have {asked}, together {prompt + asked}; this server "
                f"holds {limit} for one answer; shorten the prompt or ask for fewer tokens"
            )
        return asked

    def _enter(self, group: Group) -> None:
        """Make a request's sequences and pass it to the engine's thread."""
        matchers: list[Matcher | None] = [None] * group.request.n
        if group.request.grammar is not None:
            try:
                matchers = [self._grammars.open(group.request.grammar) for _ in matchers]
            except Exception as error:
                group.refused = str(error)
        ends = self._end_tokens | group.request.stop_tokens
        ends = frozenset(t for t in ends if 0 <= t < self._vocabulary)
        group.sequences = [Sequence(group, i, self._tokenizer, ends, m) for i, m in enumerate(matchers)]
        with self._changed:
            self._came.append(group)
            self._changed.notify()

    def _cancel(self, group: Group) -> None:
        with self._changed:
            if group.order in self._open:
                group.cancelled = True
                self._cancelled.append(group)
                self._changed.notify()
