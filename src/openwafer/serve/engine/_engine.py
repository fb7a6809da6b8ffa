"""Requests in, pieces out: what other threads call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import final

from openwafer.base import ContextLengthError, InputError
from openwafer.serve.engine._answer import Answer
from openwafer.serve.engine._grammar import Grammars, Matcher
from openwafer.serve.engine._intake import Intake
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._loop import Loop
from openwafer.serve.engine._request import Request
from openwafer.serve.engine._sequence import Group, Sequence
from openwafer.serve.engine._statistics import Meter, Statistics
from openwafer.serve.engine._supply import Supply
from openwafer.serve.executors import Executor
from openwafer.serve.text import Tokenizer


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
        config = executor.config
        self._tokenizer = tokenizer
        # The first call makes a table of all tokens, which takes half a second for a large vocabulary.
        tokenizer.token_bytes(0)
        self._vocabulary = config.vocabulary
        own = {*config.eos_tokens, *tokenizer.end_tokens}
        self._end_tokens = frozenset(t for t in own if 0 <= t < config.vocabulary)
        self._grammars = Grammars(tokenizer, config.vocabulary, self._end_tokens)
        self._meter = Meter()
        limits = limits or Limits()
        self._intake = Intake(limits, self._meter)
        self._supply = Supply(executor, reopen, self._meter)
        self._loop = Loop(self._intake, self._supply, limits, self._meter)
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)
        self._thread.start()

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer together: what the model was made for, and what the cache holds."""
        return self._loop.context_tokens

    def submit(self, request: Request, client: str = "") -> Answer:
        """Take a request; its pieces come in the answer. client: whose turn it takes among those that wait.

        Raises InputError for a request that makes no sense, ContextLengthError if prompt and answer are longer than
        `context_tokens`, QueueFullError if as many wait as may, EngineError if the engine stops or has failed for good.
        """
        most_tokens = self._check(request)
        answer = Answer(request.n, lambda: self._intake.cancel(group))
        group = self._intake.admit(lambda order: Group(request, client, order, most_tokens, answer.deliver))
        if request.grammar is None:
            self._enter(group)
        else:
            # A large grammar takes a second to compile: neither this thread nor the engine's has it to spare.
            self._compiler.submit(self._enter, group)
        return answer

    def statistics(self) -> Statistics:
        """Numbers of this moment."""
        return self._meter.statistics(self._intake.waiting, self._loop.scheduler, self._supply.executor)

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let those taken end for so many seconds, cancel the rest, close the executor.

        Returns when all of that is done; may be called twice.
        """
        self._intake.stop(drain_s)
        self._thread.join()
        self._compiler.shutdown(wait=True, cancel_futures=True)

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
        self._intake.enter(group)
