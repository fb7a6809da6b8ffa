"""The bodies of both POSTs. Limits are those that the public service documents; the OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_CHOICES = 128
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Tokens = Annotated[int, Meta(ge=-1, description="-1: as many as the model's length allows")]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
CacheKey = Annotated[str, Meta(max_length=1024)]
Stop = str | Annotated[list[str], Meta(max_length=4)] | None
Tier = Literal["auto", "default", "flex", "priority"]
ReasoningFormat = Literal["none", "parsed", "text_parsed", "raw", "hidden"]


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class TextPart(_Body, tag="text", tag_field="type"):
    text: str


class ImageUrlPart(_Body, tag="image_url", tag_field="type"):
    """Read so that the refusal can say why."""

    image_url: Any = None


class ImagePart(_Body, tag="image", tag_field="type"):
    """Read so that the refusal can say why."""

    image: Any = None


Content = str | list[TextPart | ImageUrlPart | ImagePart]


class SystemMessage(_Body, tag="system", tag_field="role"):
    content: Content
    name: str | None = None


class DeveloperMessage(_Body, tag="developer", tag_field="role"):
    content: Content
    name: str | None = None


class UserMessage(_Body, tag="user", tag_field="role"):
    content: Content
    name: str | None = None


class CalledFunction(_Body):
    name: str
    arguments: str = "{}"


class ToolCall(_Body):
    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"
    index: int | None = None


class AssistantMessage(_Body, tag="assistant", tag_field="role"):
    content: Content | None = None
    name: str | None = None
    reasoning: Content | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(_Body, tag="tool", tag_field="role"):
    content: Content
    tool_call_id: str
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class StreamOptions(_Body):
    include_usage: bool | None = None


class JsonSchema(_Body):
    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(_Body, tag="text", tag_field="type"):
    pass


class JsonObjectFormat(_Body, tag="json_object", tag_field="type"):
    pass


class JsonSchemaFormat(_Body, tag="json_schema", tag_field="type"):
    json_schema: JsonSchema


class Function(_Body):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Body):
    function: Function
    type: Literal["function"] = "function"


class FunctionName(_Body):
    name: str


class NamedTool(_Body):
    function: FunctionName
    type: Literal["function"] = "function"


class PredictionPart(_Body):
    text: str
    type: Literal["text"] = "text"


class Prediction(_Body):
    content: str | list[PredictionPart]
    type: Literal["content"] = "content"


class ChatRequest(_Body):
    """POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    min_completion_tokens: Tokens | None = None
    min_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    seed: int | None = None
    stop: Stop = None
    n: Choices | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    prompt_cache_key: CacheKey | None = None
    service_tier: Tier | None = None
    reasoning_effort: Literal["none", "low", "medium", "high"] | None = None
    reasoning_format: ReasoningFormat | None = None
    disable_reasoning: bool | None = None
    clear_thinking: bool | None = None
    model_parameters: dict[str, Any] | None = None
    user: str | None = None


class CompletionRequest(_Body):
    """POST /v1/completions."""

    model: str
    prompt: Annotated[
        str | list[str | int | list[int]],
        Meta(description="A text, texts, one prompt's tokens, or several prompts' tokens"),
    ]
    max_tokens: Tokens | None = None
    min_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    seed: int | None = None
    stop: Stop = None
    n: Choices | None = None
    best_of: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    return_raw_tokens: bool | None = None
    grammar_root: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_cache_key: CacheKey | None = None
    service_tier: Tier | None = None
    reasoning_format: ReasoningFormat | None = None
    user: str | None = None
