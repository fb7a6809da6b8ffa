"""Grammars for llguidance: what an answer must look like when a request forces a schema or a call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher

from openwafer.base import InputError
from openwafer.serve.text._closed import closed
from openwafer.serve.text._tokenizer import Tokenizer
from openwafer.serve.text._tool_format import ToolFormat

_MOST_CALLS = 16
_MOST_MET_PATTERNS = 6
"""Texts that must match several patterns at once take time exponential in their number to compile: 14 take 5 s."""
_OPTIONS = {
    # One spacing, so that no answer ends in white space without end; models write JSON so.
    "whitespace_flexible": False,
    "key_separator": ": ",
    "item_separator": ", ",
    # What matches one of several alternatives may match another too: nothing tells them apart as they are written.
    "coerce_one_of": True,
}


class GrammarError(InputError):
    """A schema asks for what no grammar can be made of."""


def schema_grammar(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> str:
    """The JSON schema that llguidance shall hold an answer to: objects get the properties that it names, if it names any.

    strict: False leaves out what llguidance does not know, True raises GrammarError for it.
    """
    _bound_patterns(schema, "the JSON schema")
    options = _OPTIONS if strict else _OPTIONS | {"lenient": True}
    ready = {"x-guidance": options, **({} if schema is True else closed(dict(schema or {})))}
    text = json.dumps(ready)
    _check(LLMatcher.grammar_from_json_schema(text), "the JSON schema")
    return text


def calls_grammar(
    form: ToolFormat,
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    several: bool,
    forced: bool,
    schema: Mapping[str, Any] | None = None,
) -> str:
    """A Lark grammar of answers that call tools.

    tools: `function` objects of a request: name, parameters, strict. tokenizer: whose tokens will be masked.
    several: more than one call is allowed. forced: the answer is calls, and the prompt ends with `form.begin`;
    else prose, or an answer of `schema`,
    may stand in their place. Raises GrammarError if a strict tool's parameters cannot be a grammar.
    """
    calls = [_call_schema(form, tool) for tool in tools]
    if schema is not None:
        _bound_patterns(schema, "the JSON schema")
    lines = [f"call: {' | '.join(f'call_{i}' for i in range(len(calls)))}"]
    lines += [f"call_{i}: %json {json.dumps(schema)}" for i, schema in enumerate(calls)]
    begin, separator, end = (_text(t, tokenizer) for t in (form.begin, form.separator, form.end))
    start = "call" + (f" ({separator} call){{0,{_MOST_CALLS - 1}}}" if several else "")
    if forced:
        # What closes the last call may be left out, as models with an end token of their own do.
        start += f" ({end})?" if form.end else ""
    else:
        start = f"{begin} {start} {end}"
        if schema is not None:
            start += " | answer"
            lines.append(f"answer: %json {json.dumps({'x-guidance': _OPTIONS, **closed(schema)})}")
        elif form.begin:
            start = f"TEXT ({start})?"
            lines.append(f"TEXT: /{_without(form.begin.strip().rstrip('['))}/")
        else:
            start += " | TEXT"
            lines.append("TEXT: /[^{\\s](?s:.*)/")
    text = "\n".join([f"start: {start}", *lines])
    _check(LLMatcher.grammar_from_lark(text), "the tools' parameters")
    return text


def _text(text: str, tokenizer: Tokenizer) -> str:
    """A text in Lark. A mark that is one token stands by its number too: llguidance takes it for no text then."""
    parts = re.split(r"(</?tool_call>|\[TOOL_CALLS\])", text)
    written = [
        json.dumps(part) if (token := tokenizer.id(part)) is None else f"({json.dumps(part)} | <[{token}]>)"
        for part in parts
        if part
    ]
    return " ".join(written)


def _call_schema(form: ToolFormat, tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one tool's call. References in its parameters are moved to where the parameters stand."""
    key = form.arguments
    _bound_patterns(tool.get("parameters"), f"the schema of {tool['name']!r}")
    parameters = _moved(closed(tool.get("parameters") or {"type": "object"}), f"#/properties/{key}")
    options = _OPTIONS if tool.get("strict") else _OPTIONS | {"lenient": True}
    return {
        "x-guidance": options,
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, key: parameters},
        "required": ["name", key],
        "additionalProperties": False,
    }


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, list):
        return [_moved(v, root) for v in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        k: root + v[1:] if k == "$ref" and isinstance(v, str) and v.startswith("#") else _moved(v, root)
        for k, v in schema.items()
    }


def _bound_patterns(schema: Any, what: str) -> None:
    """Raises GrammarError if parts of a schema that hold at once may have many patterns."""
    patterns: set[str] = set()
    met = False
    level = [schema]
    while level:
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                met |= "allOf" in item or ("$ref" in item and len(item) > 1)
                patterns |= {
                    f"{k} {item[k]}" for k in ("pattern", "format", "minLength", "maxLength") if k in item
                }
                if isinstance(item.get("patternProperties"), Mapping):
                    patterns |= set(item["patternProperties"])
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        level = deeper
    if met and len(patterns) > _MOST_MET_PATTERNS:
        raise GrammarError(
            f"{what} cannot be enforced: it has allOf, or $ref with more beside it, and {len(patterns)} patterns or "
            f"lengths of texts; with more than {_MOST_MET_PATTERNS} write out what holds at once"
        )


def _without(mark: str) -> str:
    """A regular expression of the texts in which `mark` does not occur; its first character must occur once in it."""
    first, rest = mark[0], mark[1:]
    none = f"[^{_escaped(first)}]"
    begun = "|".join(
        f"{''.join(map(_escaped, rest[:i]))}(?:[^{_escaped(first)}{_escaped(rest[i])}]{none}*)?"
        for i in range(len(rest))
    )
    return f"{none}*(?:{_escaped(first)}(?:{begun}))*"


def _escaped(character: str) -> str:
    return character if character.isalnum() else f"\\x{ord(character):02x}"


def _check(grammar: str, what: str) -> None:
    error = LLMatcher.validate_grammar(grammar)
    if error:
        raise GrammarError(f"{what} cannot be enforced: {error.strip()}")
