"""Calls in an answer's text, found as the text comes: prose passes, a call appears once it is complete."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection
from typing import Any, NamedTuple

from openwafer.serve.text._reasoning import overlap
from openwafer.serve.text._tool_format import ToolFormat

_PYTHON_TAG = "<|python_tag|>"


class Call(NamedTuple):
    """A function that the model wants called; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CallParser:
    """The calls and the prose of one answer, in order. What is no call is given back as the text that it was."""

    def __init__(self, form: ToolFormat, tools: Collection[str], *, begun: bool = False) -> None:
        """tools: the names that may be called. begun: the prompt ended with `form.begin`."""
        self._form = form
        self._tools = tools
        self._mark = form.begin.strip().rstrip("[")
        self._text = ""
        self._raw = ""  # of the call that is being read, marks included
        self._calls = 0
        self._state = "between" if begun else "prose" if self._mark else "beginning"
        self._scan = _ObjectEnd()

    def push(self, text: str) -> list[str | Call]:
        """What is certain after more text."""
        self._text += text
        found: list[str | Call] = []
        while (step := self._step()) is not None:
            found.extend([step] if step else [])
        return found

    def finish(self) -> list[str | Call]:
        """What was held back, now that no more text comes."""
        if self._state == "python" and (call := _python_call(self._text)):
            self._text = self._raw = ""
            return [call]
        rest, self._text, self._raw = self._raw + self._text, "", ""
        if self._calls and self._state in ("between", "prose") and _closes(rest):
            return []
        return [rest] if rest else []

    def _step(self) -> str | Call | None:
        """One thing found, "" for a step without one, None if more text is needed."""
        return getattr(self, f"_in_{self._state}")()  # type: ignore[no-any-return]

    def _in_beginning(self) -> str | None:
        start = self._text.lstrip()
        if start.startswith("{"):
            self._state = "object"
            self._raw, self._text = self._text[: -len(start)], start
            return ""
        if start.startswith(_PYTHON_TAG):
            self._raw, self._text = _PYTHON_TAG, start[len(_PYTHON_TAG) :]
            self._state = "tagged"
            return ""
        if _PYTHON_TAG.startswith(start):
            return None
        self._state = "rest"
        return ""

    def _in_tagged(self) -> str | None:
        start = self._text.lstrip()
        if not start:
            return None
        self._state = "object" if start.startswith("{") else "python"
        self._text = start
        return ""

    def _in_python(self) -> None:
        return None  # `name.call(argument="value")` is read when it is whole

    def _in_rest(self) -> str | None:
        text, self._text = self._text, ""
        return text or None

    def _in_prose(self) -> str | None:
        at = self._text.find(self._mark)
        if at < 0:
            text = self._text[: len(self._text) - overlap(self._text, self._mark)]
            if self._calls and not text.strip():  # may stand between two calls
                return None
            self._text = self._text[len(text) :]
            return text or None
        text, self._text = self._text[:at], self._text[at + len(self._mark) :]
        self._raw, self._state = self._mark, "between"
        return "" if self._calls and not text.strip() else text

    def _in_between(self) -> str | None:
        """Before an object: separators, or what ends the calls."""
        start = self._text.lstrip(" \n\r\t,;[")
        self._raw += self._text[: len(self._text) - len(start)]
        self._text = start
        if not start:
            return None
        if start.startswith("{"):
            self._state = "object"
            return ""
        for closing in ("</tool_call>", "]"):
            if start.startswith(closing) and self._calls:
                self._text, self._raw = start[len(closing) :], ""
                self._state = "prose" if self._mark else "rest"
                return ""
            if closing.startswith(start) and self._calls:
                return None
        text, self._raw = ("" if self._calls else self._raw), ""
        self._state = "prose" if self._mark else "rest"
        return text

    def _in_object(self) -> str | Call | None:
        end = self._scan.feed(self._text)
        if end is None:
            return None
        self._scan = _ObjectEnd()
        source, self._text = self._text[:end], self._text[end:]
        call = self._call(source)
        text, self._raw = self._raw + source, ""
        if call is None:
            self._state = "prose" if self._mark else "rest"
            return text
        self._calls += 1
        self._state = "between"
        return call

    def _call(self, source: str) -> Call | None:
        try:
            value = json.loads(source, strict=False)
        except (ValueError, RecursionError):
            return None
        function = value.get("function")
        if isinstance(function, dict):
            value = function
        name = value.get("name", function)
        arguments: Any = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        if not self._mark and name not in self._tools:  # bare JSON may be an answer like another
            return None
        return Call(name, json.dumps(arguments, ensure_ascii=False))


def _closes(text: str) -> bool:
    """Whether a text after a call only closes it, or begins another that never came."""
    return (
        not text.translate(dict.fromkeys(map(ord, " \n\r\t,;[]")))
        .removeprefix("</tool_call>")
        .removeprefix("<tool_call>")
    )


class _ObjectEnd:
    """Finds where a JSON object that begins a text ends, looking at each character once."""

    def __init__(self) -> None:
        self._at = self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str) -> int | None:
        while self._at < len(text):
            c = text[self._at]
            self._at += 1
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif c == "\\":
                    self._escaped = True
                elif c == '"':
                    self._quoted = False
            elif c == '"':
                self._quoted = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if not self._depth:
                    return self._at
        return None


def _python_call(text: str) -> Call | None:
    """Llama writes calls of its built-in tools as `brave_search.call(query="...")`."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            return None
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr == "call":
            called = called.value
        if not isinstance(called, ast.Name):
            return None
        arguments = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
        return Call(called.id, json.dumps(arguments, ensure_ascii=False))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
