"""What an answer's text means: thoughts, calls and prose, however the text is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from small_tokenizers import byte_level  # type: ignore[import-not-found]

from openwafer.serve.text import (
    HERMES,
    LLAMA,
    MISTRAL,
    SPELT_OUT,
    Call,
    CallParser,
    GrammarError,
    ReasoningSplitter,
    Tokenizer,
    ToolFormat,
    calls_grammar,
    schema_grammar,
)

WEATHER = Call("weather", '{"city": "Rome {\\"x\\"}"}')
TIME = Call("time", "{}")
ARGUMENTS = '{"city": "Rome {\\"x\\"}"}'
CASES: list[tuple[ToolFormat, str, list[str | Call]]] = [
    (LLAMA, '{"name": "weather", "parameters": ARGUMENTS}', [WEATHER]),
    (LLAMA, ' \n{"type": "function", "name": "weather", "parameters": ARGUMENTS}\n', [WEATHER]),
    (LLAMA, '<|python_tag|>{"name": "time", "parameters": {}}', [TIME]),
    (LLAMA, '<|python_tag|>time.call(zone="UTC")', [Call("time", '{"zone": "UTC"}')]),
    (
        LLAMA,
        '{"name": "weather", "parameters": ARGUMENTS}; {"name": "time", "parameters": {}}',
        [WEATHER, TIME],
    ),
    (LLAMA, '{"name": "nobody", "parameters": {}} is JSON', ['{"name": "nobody", "parameters": {}} is JSON']),
    (LLAMA, 'prose {"name": "time", "parameters": {}}', ['prose {"name": "time", "parameters": {}}']),
    (LLAMA, '{"name": "time", "para', ['{"name": "time", "para']),
    (LLAMA, "<|python_tag|>import os", ["<|python_tag|>import os"]),
    (LLAMA, "<|pyth", ["<|pyth"]),
    (HERMES, '<tool_call>\n{"name": "weather", "arguments": ARGUMENTS}\n</tool_call>', [WEATHER]),
    (
        HERMES,
        'so: <tool_call>{"name": "time", "arguments": {}}</tool_call>\n<tool_call>{"name": "weather", "arguments": ARGUMENTS}',
        ["so: ", TIME, WEATHER],
    ),
    (
        HERMES,
        '<tool_call>\n{"name": "time", "arguments": "{}"}\n</tool_call>\nand',
        [TIME, "\nand"],
    ),
    (HERMES, "a <tool> b <tool_call> c", ["a <tool> b <tool_call> c"]),
    (HERMES, "<tool_call>\n{'name': 1}\n</tool_call>", ["<tool_call>\n{'name': 1}\n</tool_call>"]),
    (HERMES, '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>\n<tool_call>\n', [TIME]),
    (MISTRAL, '[TOOL_CALLS][{"name": "time", "arguments": {}}]', [TIME]),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "time", "arguments": {}}, {"name": "weather", "arguments": ARGUMENTS}]',
        [TIME, WEATHER],
    ),
    (MISTRAL, "a [list] b", ["a [list] b"]),
]


def parsed(parser: CallParser, parts: list[str]) -> list[str | Call]:
    """What the parser found, with neighbouring prose joined."""
    found = [item for part in parts for item in parser.push(part)] + parser.finish()
    joined: list[str | Call] = []
    for item in found:
        if isinstance(item, str) and not isinstance(item, Call) and joined and isinstance(joined[-1], str):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


@pytest.mark.parametrize(("form", "text", "expected"), CASES)
def test_calls_are_found_however_the_text_is_cut(
    form: ToolFormat, text: str, expected: list[str | Call]
) -> None:
    """Whole, in characters and in every two halves: tokens cut anywhere."""
    text = text.replace("ARGUMENTS", ARGUMENTS)
    cuts = [[text], list(text), *([text[:i], text[i:]] for i in range(1, len(text)))]

    for parts in cuts:
        assert parsed(CallParser(form, {"weather", "time"}), parts) == expected


@pytest.mark.parametrize("form", [LLAMA, HERMES, MISTRAL])
@given(st.text('<tol_ca>{}[]"name:/|;, TOOL_CALLS'), st.integers(0, 50))
def test_prose_is_never_lost(form: ToolFormat, text: str, at: int) -> None:
    """Whatever looks like a call and is none comes out as it went in."""
    assert "".join(map(str, parsed(CallParser(form, ()), [text[:at], text[at:]]))) == text


def test_the_format_is_the_templates() -> None:
    """Templates show the model examples of the marks that they mean."""
    assert ToolFormat.of("... <tool_call> ...") is HERMES
    assert ToolFormat.of("{{ tools }}[TOOL_CALLS]") is MISTRAL
    assert ToolFormat.of('{% if tools %} {"name": ..., "parameters": ...}') is LLAMA
    assert ToolFormat.of("{{ messages }}") is SPELT_OUT


def test_llama_gets_one_call_a_message() -> None:
    """Its template raises otherwise; each result follows its call."""
    calls = [{"id": i, "function": {"name": i, "arguments": {}}} for i in "ab"]
    results = [{"role": "tool", "tool_call_id": i, "content": i} for i in "ba"]

    messages = LLAMA.messages([{"role": "assistant", "tool_calls": calls}, *results, {"role": "user"}], ())

    assert [m.get("tool_call_id") or [c["id"] for c in m.get("tool_calls", ())] for m in messages] == [
        ["a"],
        "a",
        ["b"],
        "b",
        [],
    ]


def test_a_template_without_tools_gets_them_spelt_out() -> None:
    """Old and base checkpoints can be asked too; what they see is plain messages."""
    call = {"id": "1", "function": {"name": "time", "arguments": {"a": 1}}}
    history = [
        {"role": "user", "content": "when?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
        {"role": "tool", "tool_call_id": "2", "content": "night"},
    ]

    messages = SPELT_OUT.messages(history, [{"type": "function", "function": {"name": "time"}}])

    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert '"name": "time"' in messages[0]["content"]
    assert messages[2]["content"] == '<tool_call>\n{"name": "time", "arguments": {"a": 1}}\n</tool_call>'
    assert messages[3]["content"].count("<tool_response>") == 2
    assert history[1]["content"] is None, "the caller's messages stay as they were"


@pytest.mark.parametrize(
    ("inside", "text", "reasoning", "content"),
    [
        (False, "<think>\nwhy\n</think>\n\nso", "why\n", "so"),
        (True, "\nwhy</think>so", "why", "so"),
        (False, "so <think>x</think>", "", "so <think>x</think>"),
        (False, "\n\n so", "", "\n\n so"),
        (False, "<think>cut", "cut", ""),
        (False, "<thi", "", "<thi"),
        (False, "<think></think>a</think>", "", "a</think>"),
    ],
)
def test_thoughts_are_told_from_the_answer(inside: bool, text: str, reasoning: str, content: str) -> None:
    """However the text is cut; and the lines around the marks belong to neither."""
    for parts in [[text], list(text), *([text[:i], text[i:]] for i in range(1, len(text)))]:
        splitter = ReasoningSplitter(inside)
        found = [p for part in parts for p in splitter.push(part)] + splitter.finish()
        assert "".join(p.text for p in found if p.kind == "reasoning") == reasoning
        assert "".join(p.text for p in found if p.kind == "content") == content


TOKENIZER = Tokenizer(byte_level())
LL = LLTokenizer(byte_level().to_str(), eos_token=byte_level().token_to_id("<|end|>"))


def takes(grammar: str, text: str) -> bool:
    """Whether an answer may be this text and end."""
    matcher = LLMatcher(LL, grammar)
    assert not matcher.get_error()
    tokens = byte_level().encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


CITY = {
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"City": {"enum": ["Rome", "Bern"]}},
    },
}
GOOD, BAD = '{"name": "weather", "%s": {"city": "Bern"}}', '{"name": "weather", "%s": {"city": "Ulm"}}'


@pytest.mark.parametrize("form", [LLAMA, HERMES, MISTRAL])
def test_a_forced_answer_is_a_call(form: ToolFormat) -> None:
    """Of one of the tools, with arguments of its schema, references into it included; and is read back as one."""
    good, bad = GOOD % form.arguments, BAD % form.arguments
    several = LLMatcher.grammar_from_lark(calls_grammar(form, [CITY], TOKENIZER, several=True, forced=True))
    one = LLMatcher.grammar_from_lark(calls_grammar(form, [CITY], TOKENIZER, several=False, forced=True))

    assert takes(one, good)
    assert not takes(one, bad)
    assert not takes(one, "prose")
    assert not takes(one, good + form.separator + good)
    assert takes(several, good + form.separator + good)
    parser = CallParser(form, {"weather"}, begun=True) if form.begin else CallParser(form, {"weather"})
    assert parsed(parser, [good + form.separator + good]) == [Call("weather", '{"city": "Bern"}')] * 2


@pytest.mark.parametrize("form", [LLAMA, HERMES, MISTRAL])
def test_strict_tools_bind_calls_and_leave_prose_alone(form: ToolFormat) -> None:
    """With tool_choice auto the model may do either; a call that it begins has to be right."""
    grammar = LLMatcher.grammar_from_lark(calls_grammar(form, [CITY], TOKENIZER, several=True, forced=False))
    good, bad = GOOD % form.arguments, BAD % form.arguments

    assert takes(grammar, "prose < { <tool [TOOL")
    assert takes(grammar, form.begin + good + form.end)
    assert not takes(grammar, form.begin + bad + form.end)


def test_tools_or_an_answer_of_a_schema() -> None:
    """Never both, and never anything else."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    grammar = LLMatcher.grammar_from_lark(
        calls_grammar(HERMES, [CITY], TOKENIZER, several=True, forced=False, schema=schema)
    )

    assert takes(grammar, '{"a": 1}')
    assert takes(grammar, HERMES.begin + GOOD % "arguments" + HERMES.end)
    assert not takes(grammar, '{"a": 1}' + HERMES.begin + GOOD % "arguments" + HERMES.end)
    assert not takes(grammar, "prose")


def test_json_has_one_spacing() -> None:
    """A model without sense would write white space for ever."""
    grammar = LLMatcher.grammar_from_json_schema(schema_grammar({"type": "object"}))

    assert takes(grammar, json.dumps({"a": [1, {"b": None}]}))
    assert not takes(grammar, '{ "a": 1}')


def test_a_schema_that_cannot_be_enforced_is_refused_if_strict() -> None:
    """Otherwise what can be enforced of it is."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "telegram"}}}

    with pytest.raises(GrammarError, match="telegram"):
        schema_grammar(schema)
    lenient = LLMatcher.grammar_from_json_schema(schema_grammar(schema, strict=False))
    assert takes(lenient, '{"a": "x"}')
    assert not takes(lenient, '{"a": 1}')


def test_alternatives_are_enforced_as_any_of_them() -> None:
    """Classes with a discriminator make oneOf; nothing in a schema costs more to compile than it says."""
    one = schema_grammar({"oneOf": [{"const": "a"}, {"type": "integer"}]})
    assert takes(LLMatcher.grammar_from_json_schema(one), '"a"')
    assert not takes(LLMatcher.grammar_from_json_schema(one), '"b"')


def test_many_patterns_at_once_are_refused_before_they_are_compiled() -> None:
    """Each doubles the time: twenty would keep a thread for minutes, and threads cannot be stopped."""
    patterns = [{"type": "string", "pattern": f".*a.{{{i}}}b"} for i in range(10, 30)]

    for schema in (
        {"allOf": patterns},
        {"$defs": {"a": patterns[0]}, "x": patterns, "$ref": "#/$defs/a", "type": "string"},
    ):
        with pytest.raises(GrammarError, match="20 patterns"):
            schema_grammar(schema)
        with pytest.raises(GrammarError, match="20 patterns"):
            calls_grammar(HERMES, [{"name": "f", "parameters": schema}], TOKENIZER, several=True, forced=True)
    assert schema_grammar({"anyOf": patterns})


def test_an_object_gets_the_properties_that_are_named() -> None:
    """A schema that says nothing of others allows them, and a model could go on inventing them without end."""
    schema = {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City"}, "properties": {"type": "string"}},
        "required": ["city"],
        "$defs": {"City": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    ready = json.loads(schema_grammar(schema))

    assert ready["additionalProperties"] is False
    assert ready["$defs"]["City"]["additionalProperties"] is False
    assert ready["properties"] == schema["properties"]
    call = calls_grammar(HERMES, [{"name": "f", "parameters": schema}], TOKENIZER, several=False, forced=True)
    assert call.count('"additionalProperties": false') == 3


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "minProperties": 2},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}, "required": ["b"]}]},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}, "required": ["b"]}]},
        {"$ref": "#/$defs/A", "properties": {"b": {}}, "$defs": {"A": {"properties": {"a": {}}}}},
        {"const": {"properties": {"a": 1}}},
    ],
)
def test_an_object_stays_open_where_the_schema_may_want_more(schema: dict[str, Any]) -> None:
    """Parts that hold at once would forbid each other's properties, and nothing at all could be written."""
    ready = json.loads(schema_grammar(schema, strict=False))

    assert {key: value for key, value in ready.items() if key != "x-guidance"} == schema
