"""One choice of one request, from its prompt to its last token."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import final

import numpy as np

from openwafer.serve.engine._blocks import digest
from openwafer.serve.engine._draft import Draft
from openwafer.serve.engine._grammar import Matcher
from openwafer.serve.engine._request import FinishReason, Piece, Request, Times, TokenProbability, Usage
from openwafer.serve.executors import BLOCK_TOKENS
from openwafer.serve.text import Detokeniser, Tokenizer

_TIERS = {"priority": 0, "default": 1, "flex": 2}


@final
class Group:
    """A request, the sequences of its choices, and where their pieces go."""

    def __init__(
        self, request: Request, client: str, order: int, most_tokens: int, deliver: Callable[[Piece], None]
    ) -> None:
        """order: of arrival. most_tokens: that a choice may have. deliver: called by the engine's thread alone."""
        self.request = request
        self.client = client
        self.order = order
        self.tier = _TIERS[request.tier]
        self.most_tokens = most_tokens
        self.deliver = deliver
        sampling = request.sampling
        self.seed = sampling.seed if sampling.seed is not None else secrets.randbits(64)
        self.repeatable = sampling.seed is not None or sampling.temperature == 0 or sampling.top_p == 0
        """Who asks the same again can expect the same answer, so what is in the cache must not change its bits."""
        self.bias = (
            np.array([*sampling.logit_bias], dtype=np.int64),
            np.array([*sampling.logit_bias.values()], dtype=np.float32),
        )
        """Tokens, and what is added to their logits."""
        self.cancelled = False
        self.refused = ""
        """Why it cannot begin."""
        self.arrived = time.monotonic()
        self.admitted: float | None = None
        """When the first choice began to run."""
        self.cached_tokens = 0
        """Of the prompt, found in the cache by the first choice."""
        self.sequences: list[Sequence] = []
        """Empty until its grammar is compiled. The first begins, the others follow when the prompt is in the cache."""
        self.unfinished = request.n
        self.followed = False
        """The first choice's prompt is computed, and the other choices have come."""


@final
class Sequence:
    """Tokens of one choice, what of them the cache holds, and the text that they make."""

    def __init__(
        self,
        group: Group,
        choice: int,
        tokenizer: Tokenizer,
        end_tokens: frozenset[int],
        matcher: Matcher | None,
    ) -> None:
        request = group.request
        self.group = group
        self.choice = choice
        self.tokens = list(request.prompt)
        """Prompt and answer so far."""
        self.computed = 0
        """Tokens, from the first, whose keys and values are in the cache."""
        self.alike = 0
        """Blocks, from the first, that are or will be computed as any prompt's are."""
        self.table: list[int] = []
        """Blocks of the cache that it refers to."""
        self.flying = False
        """A batch with it was submitted, and not collected yet."""
        self.admitted = False
        """It has blocks and is among those that run."""
        self.queued = False
        """It waits for blocks."""
        self.returned = False
        """It was preempted, and what it finds in the cache may be its own."""
        self.counts: dict[int, int] = {}
        """How often the answer has each token."""
        self.end_tokens = end_tokens
        self.matcher = matcher
        self.draft = Draft(request.prediction) if request.prediction else None
        self.accepted = 0
        self.rejected = 0
        self.echoed = 1
        """Tokens of the prompt whose probabilities are known; the first counts and has none."""
        self.finish: FinishReason | None = None
        self.error = ""
        self._detokeniser = Detokeniser(tokenizer, request.stop)
        self._digests: list[bytes] = []
        self._first_token: float | None = None
        self._began: float | None = None
        self._pending_text: list[str] = []
        self._pending_tokens: list[int] = []
        self._pending_logprobs: list[TokenProbability] = []

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.group.request.prompt)

    @property
    def in_prompt(self) -> bool:
        """Tokens of its prompt are to be computed, and not only those of its answer."""
        return self.computed < self.prompt_tokens

    @property
    def echoing(self) -> bool:
        """Probabilities of its prompt are wanted, and not all known."""
        return self.group.request.echo and self.echoed < self.prompt_tokens

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer so far, an end token included."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def room(self) -> int:
        """Tokens that the answer may still have."""
        return self.group.most_tokens - self.answer_tokens

    @property
    def rank(self) -> tuple[int, int, int]:
        """Smaller goes first."""
        return self.group.tier, self.group.order, self.choice

    @property
    def shareable(self) -> int:
        """Blocks of its beginning that may come from the cache: the last token must run, echoed ones too."""
        if self.echoing:
            return (self.echoed - 1) // BLOCK_TOKENS
        return (len(self.tokens) - 1) // BLOCK_TOKENS

    def digests(self, count: int) -> list[bytes]:
        """Names of the prefixes that end with its first `count` blocks, which must be full."""
        while len(self._digests) < count:
            at = len(self._digests) * BLOCK_TOKENS
            before = self._digests[-1] if self._digests else b""
            self._digests.append(digest(before, self.tokens[at : at + BLOCK_TOKENS]))
        return self._digests[:count]

    def lose_place(self) -> None:
        """The cache is gone, and with it everything that the sequence had there."""
        self.table, self.computed = [], 0
        self.flying = self.admitted = self.queued = False

    def begin(self) -> None:
        """It runs; called again after a preemption."""
        if self._began is None:
            self._began = time.monotonic()
        if self.group.admitted is None:
            self.group.admitted = self._began

    def proposal(self, most: int) -> list[int]:
        """Tokens to verify beside the next one; none that could not be in the answer anyway."""
        if self.draft is None:
            return []
        drafts = self.draft.propose(self.tokens[self.prompt_tokens :], min(most, self.room - 1))
        ends = next((i for i, token in enumerate(drafts) if token in self.end_tokens), len(drafts))
        drafts = drafts[:ends]
        return drafts[: self.matcher.allowed_prefix(drafts)] if self.matcher is not None else drafts

    def echo(self, probabilities: list[TokenProbability]) -> None:
        """Probabilities of the prompt's next tokens."""
        self.echoed += len(probabilities)
        self._pending_logprobs += probabilities

    def append(self, token: int, probability: TokenProbability | None) -> None:
        """The answer's next token. Sets `finish` if it is the last."""
        if self._first_token is None:
            self._first_token = time.monotonic()
        self.tokens.append(token)
        self.counts[token] = self.counts.get(token, 0) + 1
        if self.draft is not None:
            self.draft.advance(token)
        over = self.matcher is not None and self.matcher.take(token)
        if token in self.end_tokens:
            self.finish = "stop"
            return
        self._pending_tokens.append(token)
        if probability is not None:
            self._pending_logprobs.append(probability)
        self._pending_text.append(self._detokeniser.push(token))
        if over and self.matcher is not None and self.matcher.error:
            self.finish, self.error = "error", f"the grammar has no way on: {self.matcher.error}"
        elif over or self._detokeniser.stopped:
            self.finish = "stop"
        elif self.room <= 0:
            self.finish = "length"

    def piece(self) -> Piece | None:
        """What came since the last piece; None if nothing did."""
        if self.finish is not None:
            self._pending_text.append(self._detokeniser.finish())
        text = "".join(self._pending_text)
        if not (text or self._pending_tokens or self.finish is not None):
            return None
        piece = Piece(
            choice=self.choice,
            text=text,
            tokens=tuple(self._pending_tokens),
            logprobs=tuple(self._pending_logprobs),
            finish=self.finish,
            usage=self._usage() if self.finish is not None else None,
            times=self._times() if self.finish is not None else None,
            error=self.error,
            refused=self.finish == "error"
            and bool(self.group.refused or (self.matcher and self.matcher.error)),
        )
        self._pending_text, self._pending_tokens, self._pending_logprobs = [], [], []
        return piece

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.answer_tokens,
            cached_tokens=self.group.cached_tokens,
            accepted_prediction_tokens=self.accepted,
            rejected_prediction_tokens=self.rejected,
        )

    def _times(self) -> Times:
        now = time.monotonic()
        began = self._began if self._began is not None else now
        first = self._first_token if self._first_token is not None else now
        return Times(
            queue_s=began - self.group.arrived,
            prompt_s=max(0.0, first - began),
            completion_s=now - first,
        )
