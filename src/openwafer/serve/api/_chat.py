"""A chat request to a prompt, a grammar and what reads the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openwafer.serve.api._choice import ChatChoiceWriter
from openwafer.serve.api._common import bias_of, most_tokens, sampling_of, stops_of, tier_of
from openwafer.serve.api._errors import invalid
from openwafer.serve.api._requests import (
    AssistantMessage,
    ChatRequest,
    Content,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedTool,
    TextPart,
    Tool,
    ToolMessage,
)
from openwafer.serve.api._settings import Settings
from openwafer.serve.engine import Grammar, Request
from openwafer.serve.text import (
    CallParser,
    ChatTemplate,
    ReasoningSplitter,
    Tokenizer,
    ToolFormat,
    add_to_system,
    calls_grammar,
    schema_grammar,
)


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """What the engine gets, and what reads each choice of its answer."""

    request: Request
    writer: Callable[[int], ChatChoiceWriter]


def prepare_chat(
    body: ChatRequest, id: str, settings: Settings, tokenizer: Tokenizer, template: ChatTemplate | None
) -> PreparedChat:
    """Raises ApiError, TemplateError or GrammarError for what cannot be asked of this model."""
    if template is None:
        raise invalid(
            "This model has no chat template, so it was not trained to chat; use /v1/completions, or start the server "
            "with a template.",
            "messages",
        )
    thinks = "<think>" in template.source or tokenizer.id("<think>") is not None
    _check(body)
    if settings.strict:
        _check_strictly(body, thinks)
    form = ToolFormat.of(template.source)
    tools, forced = _tools(body)
    grammar = _grammar(body, form, tools, tokenizer, forced)
    text = _prompt(body, form, template, settings.context_tokens, thinking=grammar is None)
    inside = thinks and text.rstrip().endswith("<think>")
    if inside and grammar is not None:
        # The grammar begins with the first token, so the thought that the template began has to end before it.
        text, inside = text.rstrip() + "\n\n</think>\n\n", False
    if forced:
        text += form.begin
    prediction = body.prediction.content if body.prediction else ""
    if not isinstance(prediction, str):
        prediction = "".join(p.text for p in prediction)
    limit = most_tokens(body.max_completion_tokens, body.max_tokens)
    least = body.min_completion_tokens if body.min_completion_tokens is not None else body.min_tokens
    request = Request(
        id=id,
        prompt=tuple(tokenizer.encode(text, start=False)),
        sampling=sampling_of(body, bias_of(body.logit_bias, tokenizer)),
        n=body.n or 1,
        max_tokens=limit,
        min_tokens=(limit or settings.context_tokens) if least == -1 else least or 0,
        stop=stops_of(body.stop),
        stop_tokens=tokenizer.end_tokens,
        grammar=grammar,
        prediction=tuple(tokenizer.encode(prediction, start=False)) if prediction else (),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        tier=tier_of(body.service_tier),
    )
    reading = body.reasoning_format or "none"
    names = {t.function.name for t in tools}

    def writer(index: int) -> ChatChoiceWriter:
        return ChatChoiceWriter(
            index,
            tokenizer,
            splitter=ReasoningSplitter(inside) if thinks and reading != "raw" else None,
            show_reasoning=reading != "hidden",
            calls=CallParser(form, names, begun=forced and bool(form.begin)) if tools else None,
            several_calls=body.parallel_tool_calls is not False,
        )

    return PreparedChat(request, writer)


def _check(body: ChatRequest) -> None:
    """What a Struct cannot say about one body."""
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs needs logprobs to be true.", "top_logprobs")
    names = [t.function.name for t in body.tools or ()]
    if len(set(names)) < len(names):
        raise invalid("Two tools have the same name.", "tools")
    if isinstance(body.tool_choice, NamedTool) and body.tool_choice.function.name not in names:
        raise invalid(
            f"tool_choice names {body.tool_choice.function.name!r}, which is no tool.", "tool_choice"
        )
    if body.tool_choice == "required" and not names:
        raise invalid("tool_choice is 'required', but there are no tools.", "tool_choice")


def _check_strictly(body: ChatRequest, thinks: bool) -> None:
    """What the public service refuses and this one could do."""
    if len({bool(t.function.strict) for t in body.tools or ()}) > 1:
        raise invalid("Tools with mixed values for 'strict' are not allowed.", "tools")
    if body.model_parameters:
        raise invalid("This model has no model_parameters.", "model_parameters")
    if body.reasoning_effort not in (None, "none") and not thinks:
        raise invalid("reasoning_effort is not supported: this model does not reason.", "reasoning_effort")
    schemas = [("tools", t.function.parameters) for t in body.tools or () if t.function.strict]
    if _strict(body) and isinstance(body.response_format, JsonSchemaFormat):
        schemas.append(("response_format", body.response_format.json_schema.schema))
    for param, schema in schemas:
        if not _closed(schema):
            raise invalid("'additionalProperties' is required to be supplied and set to false.", param)


def _closed(schema: Any) -> bool:
    """Every object of a schema allows the properties that it names, and no others."""
    if isinstance(schema, list):
        return all(map(_closed, schema))
    if not isinstance(schema, dict):
        return True
    if (schema.get("type") == "object" or "required" in schema) and schema.get(
        "additionalProperties"
    ) is not False:
        return False
    return all(map(_closed, schema.values()))


def _tools(body: ChatRequest) -> tuple[list[Tool], bool]:
    """The tools that may be called, and whether one must be."""
    tools = body.tools or []
    match body.tool_choice:
        case "none":
            return [], False
        case NamedTool(function=chosen):
            return [t for t in tools if t.function.name == chosen.name], True
        case choice:
            return tools, choice == "required"


def _grammar(
    body: ChatRequest, form: ToolFormat, tools: list[Tool], tokenizer: Tokenizer, forced: bool
) -> Grammar | None:
    schema = _schema(body)
    functions = [_function(t) for t in tools]
    bound = any(t.function.strict for t in tools)
    if tools and (forced or bound or schema is not None):
        text = calls_grammar(
            form,
            functions,
            tokenizer,
            several=body.parallel_tool_calls is not False,
            forced=forced,
            schema=schema,
        )
        return Grammar("lark", text)
    return None if schema is None else Grammar("json_schema", schema_grammar(schema, strict=_strict(body)))


def _schema(body: ChatRequest) -> dict[str, Any] | None:
    """The schema that content has to have; None if it may be anything."""
    match body.response_format:
        case JsonObjectFormat():
            return {"type": "object"}
        case JsonSchemaFormat(json_schema=asked):
            return asked.schema if asked.schema is not None else {"type": "object"}
        case _:
            return None


def _strict(body: ChatRequest) -> bool:
    return isinstance(body.response_format, JsonSchemaFormat) and bool(
        body.response_format.json_schema.strict
    )


def _function(tool: Tool) -> dict[str, Any]:
    f = tool.function
    return {
        "name": f.name,
        "description": f.description or "",
        "parameters": f.parameters or {"type": "object"},
    } | ({"strict": True} if f.strict else {})


def _prompt(
    body: ChatRequest, form: ToolFormat, template: ChatTemplate, context_tokens: int, *, thinking: bool
) -> str:
    functions = [
        {"type": "function", "function": {k: v for k, v in _function(t).items() if k != "strict"}}
        for t in ([] if body.tool_choice == "none" else body.tools or [])
    ]
    messages = form.messages(_messages(body.messages), functions)
    if isinstance(body.response_format, JsonSchemaFormat) and body.response_format.json_schema.schema:
        asked = body.response_format.json_schema
        told = f"Answer with JSON of this schema, named {asked.name}:\n{json.dumps(asked.schema, ensure_ascii=False)}"
        # The grammar holds without it; a schema that would fill the context is not worth its place.
        if len(told) <= context_tokens:
            add_to_system(messages, f"{told}\n{asked.description}" if asked.description else told)
    variables: dict[str, object] = {}
    if not thinking or body.reasoning_effort == "none" or body.disable_reasoning:
        variables["enable_thinking"] = False
    elif body.reasoning_effort:
        variables["reasoning_effort"] = body.reasoning_effort
    return template.render(messages, functions if form.native else (), **variables)


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as templates read them: texts, and arguments as values."""
    called: dict[str, str] = {}
    result = []
    for i, message in enumerate(messages):
        kind = str(message.__struct_config__.tag)
        told: dict[str, Any] = {
            "role": "system" if kind == "developer" else kind,
            "content": _text(message.content, f"messages.{i}.content"),
        }
        if message.name:
            told["name"] = message.name
        match message:
            case AssistantMessage():
                if message.reasoning:
                    told["reasoning_content"] = _text(message.reasoning, f"messages.{i}.reasoning")
                if message.tool_calls:
                    told["tool_calls"] = [
                        _call(c.function.name, c.function.arguments, c.id) for c in message.tool_calls
                    ]
                    called |= {c.id: c.function.name for c in message.tool_calls}
            case ToolMessage():
                told["tool_call_id"] = message.tool_call_id
                told.setdefault("name", called.get(message.tool_call_id, ""))
        result.append(told)
    return result


def _call(name: str, arguments: str, id: str) -> dict[str, Any]:
    value: Any = arguments
    with contextlib.suppress(ValueError, RecursionError):  # a model once wrote it, and sees it as it was
        value = json.loads(arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": value}}


def _text(content: Content | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if not isinstance(part, TextPart):
            raise invalid(f"{where}: images are not supported by this model, which reads text only.", where)
        texts.append(part.text)
    return "".join(texts)
