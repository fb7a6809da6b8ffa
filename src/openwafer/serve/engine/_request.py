"""What a client may ask of the engine, and what comes back: tokens and text, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]
Tier = Literal["priority", "default", "flex"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. Formulas of penalties are OpenAI's, over the tokens generated so far."""

    temperature: float = 1.0
    """0: the most likely token."""
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the text has to match, for llguidance."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to go on from it."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling = Sampling()
    n: int = 1
    max_tokens: int | None = None
    """None: as many as the model's length allows."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    """Strings that end the text and are not part of it."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end the text, beside the model's own."""
    grammar: Grammar | None = None
    prediction: tuple[int, ...] = ()
    """Tokens that the answer may well have; they never change a greedy answer."""
    logprobs: int | None = None
    """So many alternatives beside each token's own; None: no probabilities at all."""
    tier: Tier = "default"
    echo: bool = False
    """Probabilities of the prompt's tokens as well (the first has none)."""


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A token, the natural logarithm of its probability, and the most likely ones in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an answer took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, of a monotonic clock."""

    queue_s: float
    prompt_s: float
    completion_s: float


@dataclass(frozen=True, slots=True)
class Piece:
    """What became of one choice since its last piece.

    `text` never ends within a character or within what may become a stop string. The last piece has `finish`.
    """

    choice: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenProbability, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    """Of this choice; with the last piece."""
    times: Times | None = None
    error: str = ""
    """With finish "error": what went wrong, for the client."""
    refused: bool = False
    """With finish "error": the request itself is at fault (its grammar), and would fail again."""
