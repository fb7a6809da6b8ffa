"""How a model is told of tools and how it writes a call: three published formats, found in the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls: `begin`, a JSON object, `end`; or several objects with `separator` between."""

    name: Literal["llama", "hermes", "mistral"]
    begin: str
    """Before the first call; "" if a call stands bare, and is then the whole answer."""
    separator: str
    """Between two calls."""
    end: str
    arguments: Literal["arguments", "parameters"]
    """The key of a call's arguments."""
    native: bool = True
    """Whether the chat template itself knows tools; else `spell_out` says them in messages."""

    @staticmethod
    def of(template: str) -> ToolFormat:
        """The format that a chat template's source was written for."""
        if "<tool_call>" in template:
            return HERMES
        if "[TOOL_CALLS]" in template:
            return MISTRAL
        if "tools" in template and ("python_tag" in template or "parameters" in template):
            return LLAMA
        return SPELT_OUT

    def messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The messages as this format's template takes them; `tools` are those that the model may call now."""
        copied = [dict(m) for m in messages]
        if self.native:
            return _one_call_each(copied) if self.name == "llama" else copied
        return _spell_out(copied, tools)


LLAMA = ToolFormat(name="llama", begin="", separator="; ", end="", arguments="parameters")
HERMES = ToolFormat(
    name="hermes",
    begin="<tool_call>\n",
    separator="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    arguments="arguments",
)
MISTRAL = ToolFormat(name="mistral", begin="[TOOL_CALLS][", separator=", ", end="]", arguments="arguments")
SPELT_OUT = ToolFormat(
    name="hermes",
    begin=HERMES.begin,
    separator=HERMES.separator,
    end=HERMES.end,
    arguments="arguments",
    native=False,
)
"""For templates that know no tools: the Hermes format, explained to the model in the system message."""


def add_to_system(messages: list[dict[str, Any]], text: str) -> None:
    """Put more text at the end of the system message, which is made if there is none."""
    if messages and messages[0].get("role") == "system":
        before = messages[0].get("content") or ""
        messages[0] = messages[0] | {"content": f"{before}\n\n{text}" if before else text}
    else:
        messages.insert(0, {"role": "system", "content": text})


def _one_call_each(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Llama's templates refuse a message with several calls: one after another, each with its result, says the same."""
    result: list[dict[str, Any]] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            result.append(message)
            continue
        answers: list[dict[str, Any]] = []
        while at < len(messages) and messages[at].get("role") == "tool":
            answers.append(messages[at])
            at += 1
        for call in calls:
            result.append(message | {"tool_calls": [call]})
            mine = [a for a in answers if a.get("tool_call_id") == call.get("id")]
            result.extend(mine[:1])
            answers = [a for a in answers if not mine or a is not mine[0]]
        result.extend(answers)
    return result


def _spell_out(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for message in messages:
        calls = message.get("tool_calls") or []
        if calls:
            written = "\n".join(
                HERMES.begin
                + json.dumps(
                    {"name": c["function"]["name"], "arguments": c["function"]["arguments"]},
                    ensure_ascii=False,
                )
                + HERMES.end
                for c in calls
            )
            text = "\n".join(t for t in (message.get("content"), written) if t)
            result.append({"role": "assistant", "content": text})
        elif message.get("role") == "tool":
            text = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
            if result and result[-1].get("role") == "user" and result[-1].get("results"):
                result[-1]["content"] += "\n" + text
            else:
                result.append({"role": "user", "content": text, "results": True})
        else:
            result.append(message)
    for message in result:
        message.pop("results", None)
    if tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        add_to_system(
            result,
            "You can call the functions below, each described by a JSON object between <tools> and </tools>.\n"
            f"<tools>\n{listed}\n</tools>\n"
            'To call one, write its name and arguments as a JSON object: <tool_call>\n{"name": ..., "arguments": {...}}'
            "\n</tool_call>. The result comes back between <tool_response> and </tool_response>.",
        )
    return result
