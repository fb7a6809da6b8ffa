"""Messages to one text, by the template that the checkpoint was trained with."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openwafer.base import InputError
from openwafer.serve.text._tokenizer import Tokenizer, read_json

Clock = Callable[[], datetime.datetime]


class TemplateError(InputError):
    """The template refuses these messages, or fails on them."""


class ChatTemplate:
    """A checkpoint's chat template. `render` may be called by several threads."""

    def __init__(
        self,
        source: str,
        *,
        tool_source: str | None = None,
        names: Mapping[str, str] | None = None,
        clock: Clock = datetime.datetime.now,
    ) -> None:
        """source: jinja2, run in a sandbox. tool_source: another template for requests with tools, if there is one.

        names: variables that the template may name, such as bos_token. clock: what `strftime_now` reads.
        Raises InputError if a template is not jinja2.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: clock().strftime(form)
        self.source = source if tool_source is None else source + tool_source
        """Everything the checkpoint says about its format; `ToolFormat.of` reads it."""
        try:
            self._template = environment.from_string(source)
            self._tool_template = environment.from_string(tool_source) if tool_source else self._template
        except jinja2.TemplateError as e:
            raise InputError(f"the chat template is not jinja2: {e}; copy the checkpoint's file again") from e
        self._names = dict(names or {})

    @classmethod
    def load(
        cls, folder: str | Path, tokenizer: Tokenizer, clock: Clock = datetime.datetime.now
    ) -> ChatTemplate | None:
        """The template of a checkpoint's folder: chat_template.jinja, or what a JSON file beside it holds.

        None if the checkpoint has none, which means that it was not trained to chat. Raises InputError for a
        template that cannot be read.
        """
        folder = Path(folder)
        path = folder / "chat_template.jinja"
        found: object = None
        if path.is_file():
            found = path.read_text()
        for name in ("chat_template.json", "tokenizer_config.json"):
            found = found or read_json(folder / name).get("chat_template")
        if isinstance(found, str):
            return cls(found, names=tokenizer.names, clock=clock)
        if isinstance(found, list):
            named = {
                entry["name"]: entry["template"]
                for entry in found
                if isinstance(entry, dict) and {"name", "template"} <= entry.keys()
            }
            if named:
                source = named.get("default") or next(iter(named.values()))
                return cls(source, tool_source=named.get("tool_use"), names=tokenizer.names, clock=clock)
        return None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        **variables: object,
    ) -> str:
        """The text of a conversation, ending where the model's answer begins.

        messages: role, content and what else the template reads. tools: as in OpenAI's requests.
        Raises TemplateError with the template's own words if it does not take these messages.
        """
        template = self._tool_template if tools else self._template
        try:
            return template.render(
                messages=messages,
                tools=list(tools) or None,
                add_generation_prompt=True,
                **{**self._names, **variables},
            )
        except Exception as e:  # a template is a program: it may divide by zero
            raise TemplateError(f"The model's chat template does not take these messages: {e}") from e


class _Generation(Extension):
    """`{% generation %}` marks what training learns from; the text inside stands as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration is a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(text: object) -> None:
    raise jinja2.TemplateError(str(text))


def _tojson(value: object, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    # jinja2's own filter escapes <, > and & for HTML, which models never saw in training.
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **options)
