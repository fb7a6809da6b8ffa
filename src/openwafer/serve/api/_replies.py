"""The bodies of answers, with the keys that the public service sends, in its order; what is UNSET is not sent."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class CalledFunctionOut(msgspec.Struct):
    name: str
    arguments: str
    """The text of a JSON object."""


class ToolCallOut(msgspec.Struct):
    id: str
    function: CalledFunctionOut
    type: Literal["function"] = "function"
    index: int | UnsetType = UNSET
    """In streams only."""


class AssistantOut(msgspec.Struct):
    """A whole message, or, in a stream, what there is more of it."""

    content: str | UnsetType = UNSET
    role: Literal["assistant"] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallOut] | UnsetType = UNSET


class TopToken(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenOut(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopToken]


class Logprobs(msgspec.Struct):
    content: list[TokenOut]


Finish = Literal["stop", "length", "content_filter", "tool_calls"]


class ChatChoice(msgspec.Struct):
    finish_reason: Finish
    index: int
    message: AssistantOut
    logprobs: Logprobs | UnsetType = UNSET
    reasoning_logprobs: Logprobs | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    delta: AssistantOut
    index: int
    finish_reason: Finish | UnsetType = UNSET
    logprobs: Logprobs | UnsetType = UNSET
    reasoning_logprobs: Logprobs | UnsetType = UNSET


class CompletionLogprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]
    top_logprobs: list[dict[str, float] | None] | UnsetType
    """Where more than the token itself was asked for."""


class CompletionChoice(msgspec.Struct):
    index: int
    text: str | UnsetType = UNSET
    finish_reason: Finish | UnsetType = UNSET
    logprobs: CompletionLogprobs | UnsetType = UNSET
    tokens: list[int] | UnsetType = UNSET


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class CompletionDetails(msgspec.Struct):
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    reasoning_tokens: int = 0


class UsageOut(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimeInfo(msgspec.Struct):
    """Seconds; `created` is Unix time."""

    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float
    created: float


class _Reply(msgspec.Struct, kw_only=True):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: UsageOut | UnsetType = UNSET
    time_info: TimeInfo | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    service_tier_used: str | UnsetType = UNSET


class ChatCompletion(_Reply, kw_only=True):
    choices: list[ChatChoice]
    object: Literal["chat.completion"] = "chat.completion"


class ChatChunk(_Reply, kw_only=True):
    choices: list[ChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class Completion(_Reply, kw_only=True):
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"


class ErrorBody(msgspec.Struct):
    """4xx."""

    message: str
    type: str
    param: str
    code: str


class ErrorDetails(ErrorBody):
    id: str


class WrappedError(msgspec.Struct):
    """5xx, and errors after an answer has begun."""

    status_code: int
    error: ErrorDetails
