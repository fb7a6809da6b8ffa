"""A completion request to prompts, and what reads their answers."""

from __future__ import annotations

from msgspec import UNSET

from openwafer.serve.api._choice import finish_of
from openwafer.serve.api._common import bias_of, most_tokens, sampling_of, stops_of, tier_of
from openwafer.serve.api._errors import invalid
from openwafer.serve.api._replies import CompletionChoice, CompletionLogprobs, Finish
from openwafer.serve.api._requests import CompletionRequest
from openwafer.serve.api._settings import Settings
from openwafer.serve.engine import Piece, Request, TokenProbability
from openwafer.serve.text import Tokenizer

MOST_PROMPTS = 512


def prepare_completion(
    body: CompletionRequest, id: str, settings: Settings, tokenizer: Tokenizer
) -> list[Request]:
    """One engine request for each prompt. Raises ApiError for what cannot be asked."""
    n = body.n or 1
    best_of = body.best_of or n
    if body.suffix:
        raise invalid("suffix is not supported: this model does not fill in.", "suffix")
    if best_of < n:
        raise invalid(f"best_of ({best_of}) must not be less than n ({n}).", "best_of")
    if best_of > n and body.stream:
        raise invalid("best_of cannot be streamed: the best is known at the end.", "best_of")
    prompts = _prompts(body, tokenizer)
    if len(prompts) * best_of > MOST_PROMPTS:
        raise invalid(
            f"{len(prompts)} prompts of {best_of} choices are more than {MOST_PROMPTS} answers.", "n"
        )
    limit = most_tokens(body.max_tokens)
    logprobs = body.logprobs if body.logprobs is not None else (0 if best_of > n else None)
    bias = bias_of(body.logit_bias, tokenizer)
    return [
        Request(
            id=f"{id}-{i}" if len(prompts) > 1 else id,
            prompt=tuple(prompt),
            sampling=sampling_of(body, bias),
            n=best_of,
            max_tokens=limit,
            min_tokens=(limit or settings.context_tokens) if body.min_tokens == -1 else body.min_tokens or 0,
            stop=stops_of(body.stop),
            logprobs=logprobs,
            tier=tier_of(body.service_tier),
            echo=bool(body.echo) and body.logprobs is not None,
        )
        for i, prompt in enumerate(prompts)
    ]


def _prompts(body: CompletionRequest, tokenizer: Tokenizer) -> list[list[int]]:
    asked = body.prompt
    texts: list[str] = []
    prompts: list[list[int]] = []
    if isinstance(asked, str):
        texts = [asked]
    elif all(isinstance(p, str) for p in asked):
        texts = [p for p in asked if isinstance(p, str)]
    elif all(isinstance(p, int) for p in asked):
        prompts = [[p for p in asked if isinstance(p, int)]]
    elif all(isinstance(p, list) for p in asked):
        prompts = [p for p in asked if isinstance(p, list)]
    else:
        raise invalid("prompt: texts and tokens cannot be mixed.", "prompt")
    if len(texts) + len(prompts) > MOST_PROMPTS:
        raise invalid(
            f"prompt: there are {len(texts) + len(prompts)} prompts, the limit is {MOST_PROMPTS}.", "prompt"
        )
    for prompt in prompts:
        for token in prompt:
            if not 0 <= token < tokenizer.vocabulary_size:
                raise invalid(
                    f"prompt: {token} is no token; they go to {tokenizer.vocabulary_size - 1}.", "prompt"
                )
    prompts = prompts or [tokenizer.encode(t) for t in texts]
    if not prompts or not all(prompts):
        raise invalid("prompt: there must be at least one token in every prompt.", "prompt")
    return prompts


class CompletionChoiceWriter:
    """Reads the pieces of one choice; writes chunks as they come, and the whole choice at the end."""

    def __init__(
        self, index: int, body: CompletionRequest, prompt: tuple[int, ...], tokenizer: Tokenizer
    ) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._raw = bool(body.return_raw_tokens)
        self._top = body.logprobs or 0
        self._logprobs = _Logprobs(tokenizer, self._top) if body.logprobs is not None else None
        self._echo = prompt if body.echo else ()
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._finish: Finish = "stop"
        self._sum = 0.0
        self._count = 0

    @property
    def mean_logprob(self) -> float:
        """What `best_of` compares."""
        return self._sum / max(1, self._count)

    def add(self, piece: Piece) -> list[CompletionChoice]:
        """The chunks that a piece makes; one at most."""
        text = piece.text
        tokens = list(piece.tokens)
        logprobs: CompletionLogprobs | None = None
        probabilities: list[TokenProbability | int] = list(piece.logprobs)
        if self._echo:
            text = self._tokenizer.decode(self._echo) + text
            tokens = [*self._echo, *tokens]
            probabilities = [self._echo[0], *probabilities]
            self._echo = ()
        if self._logprobs is not None and probabilities:
            logprobs = self._logprobs.add(probabilities)
        self._sum += sum(p.logprob for p in piece.logprobs)
        self._count += len(piece.logprobs)
        self._text.append(text)
        self._tokens.extend(tokens)
        if piece.finish is not None:
            self._finish = finish_of(piece)
        if not (text or logprobs or piece.finish or (self._raw and tokens)):
            return []
        return [
            CompletionChoice(
                index=self._index,
                text=UNSET if self._raw else text,
                tokens=tokens if self._raw else UNSET,
                logprobs=logprobs or UNSET,
                finish_reason=UNSET if piece.finish is None else self._finish,
            )
        ]

    def whole(self) -> CompletionChoice:
        """The choice at its end."""
        return CompletionChoice(
            index=self._index,
            text=UNSET if self._raw else "".join(self._text),
            tokens=self._tokens if self._raw else UNSET,
            finish_reason=self._finish,
            logprobs=UNSET if self._logprobs is None else self._logprobs.all,
        )


class _Logprobs:
    """The old format: parallel lists."""

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._offset = 0
        self.all = self._empty()

    def _empty(self) -> CompletionLogprobs:
        return CompletionLogprobs([], [], [], [] if self._top else UNSET)

    def add(self, probabilities: list[TokenProbability | int]) -> CompletionLogprobs:
        """A bare token has no probability: nothing stands before it."""
        more = self._empty()
        for p in probabilities:
            text = self._spelt(p if isinstance(p, int) else p.token)
            more.tokens.append(text)
            more.token_logprobs.append(None if isinstance(p, int) else p.logprob)
            more.text_offset.append(self._offset)
            if more.top_logprobs is not UNSET:
                more.top_logprobs.append(
                    None if isinstance(p, int) else {self._spelt(t): v for t, v in p.top}
                )
            self._offset += len(text)
        self.all.tokens += more.tokens
        self.all.token_logprobs += more.token_logprobs
        self.all.text_offset += more.text_offset
        if self.all.top_logprobs is not UNSET and more.top_logprobs is not UNSET:
            self.all.top_logprobs += more.top_logprobs
        return more

    def _spelt(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode(errors="replace")
