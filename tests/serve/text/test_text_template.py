"""Chat templates: transformers renders the same text."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from small_tokenizers import byte_level  # type: ignore[import-not-found]

from openwafer.base import InputError
from openwafer.serve.text import ChatTemplate, TemplateError, Tokenizer

SOURCE = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ("system", "user", "assistant") %}
        {{- raise_exception("no role " + message.role) }}
    {%- endif %}
    {%- if loop.index > 5 %}{% break %}{% endif %}
    {{- "<|" + message["role"] + "|>" }}
    {%- if message.role == "assistant" %}
    {% generation %}{{ message.content }}{% endgeneration %}
    {%- else %}
    {{- message["content"] | trim }}
    {%- endif %}
{%- endfor %}
{%- if tools is not none %}{{- tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}{{- "<|assistant|>" + strftime_now("%Y") }}{% endif %}"""
MESSAGES = [
    {"role": "system", "content": " be brief "},
    {"role": "user", "content": "a < b & 'c'"},
    {"role": "assistant", "content": "é"},
    {"role": "user", "content": "again"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<é>", "parameters": {}}}]


@pytest.mark.parametrize("tools", [[], TOOLS])
def test_transformers_renders_the_same(tools: list[dict[str, object]]) -> None:
    """Every feature of templates that published checkpoints use: loop controls, generation marks, tojson, dates."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<|begin|>")

    expected = theirs.apply_chat_template(
        MESSAGES, tools=tools or None, chat_template=SOURCE, add_generation_prompt=True, tokenize=False
    )

    assert ChatTemplate(SOURCE, names={"bos_token": "<|begin|>"}).render(MESSAGES, tools) == expected


def test_the_date_is_the_clocks() -> None:
    """So that a prompt, and what is cached of it, can be repeated."""
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", clock=lambda: datetime.datetime(2024, 7, 26))

    assert template.render([]) == "26 Jul 2024"


def test_a_refusal_has_the_templates_words() -> None:
    """The author of the template knew what the model was not trained for."""
    with pytest.raises(TemplateError, match="no role critic"):
        ChatTemplate(SOURCE).render([{"role": "critic", "content": ""}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(source: str) -> None:
    """A template comes with a download; it may format text and nothing else."""
    with pytest.raises(TemplateError):
        ChatTemplate(source).render(MESSAGES)


def test_the_folder_has_the_template_in_one_of_three_places(tmp_path: Path) -> None:
    """The file of its own is newest and goes first; lists name a template for tools."""
    tokenizer = Tokenizer(byte_level())
    assert ChatTemplate.load(tmp_path, tokenizer) is None

    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = ChatTemplate.load(tmp_path, tokenizer)
    assert template is not None
    assert (template.render([]), template.render([], TOOLS)) == ("plain", "tools")

    (tmp_path / "chat_template.jinja").write_text("own")
    template = ChatTemplate.load(tmp_path, tokenizer)
    assert template is not None
    assert template.render([], TOOLS) == "own"


def test_a_template_that_is_no_jinja_is_refused() -> None:
    """When the server starts, and not with the first request."""
    with pytest.raises(InputError, match="not jinja2"):
        ChatTemplate("{% if %}")
