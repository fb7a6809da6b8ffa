"""Any configuration as plain, printable data: the same text for the same configuration, in every process."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

_KIND = "kind"


def describe(value: object) -> Any:
    """`value` as data that `json.dumps` takes.

    A dataclass becomes a dict of its class name, under `kind`, and its fields; a `functools.partial` one of
    the function's name and the arguments by name; a function or class its qualified name. The result holds
    no addresses and no line numbers, so it can be compared between runs.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {_KIND: type(value).__name__.lstrip("_")} | fields
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, partial):
        return {_KIND: _name(value.func)} | {key: describe(item) for key, item in _arguments(value).items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    if type(value).__repr__ is object.__repr__:  # it would print an address
        return _name(type(value))
    return repr(value)


def render(described: Any, indent: str = "") -> str:
    """What `describe` returned as indented text, one entry a line."""
    lines = []
    for key, item in _entries(described):
        if isinstance(item, dict):
            lines.append(f"{indent}{key}: {item.get(_KIND, '')}".rstrip() if item else f"{indent}{key}: none")
            rest = {name: entry for name, entry in item.items() if name != _KIND}
            if rest:
                lines.append(render(rest, f"{indent}  "))
        elif isinstance(item, list) and any(isinstance(entry, (dict, list)) for entry in item):
            lines.append(f"{indent}{key}:")
            lines.append(render(item, f"{indent}  "))
        elif isinstance(item, list):
            lines.append(f"{indent}{key}: {', '.join(map(_scalar, item)) or 'none'}")
        else:
            lines.append(f"{indent}{key}: {_scalar(item)}")
    return "\n".join(lines)


def _entries(described: Any) -> list[tuple[str, Any]]:
    if isinstance(described, dict):
        return list(described.items())
    return [(f"[{place}]", item) for place, item in enumerate(described)]


def _scalar(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)  # a callable object by its class
    return f"{named.__module__}.{named.__qualname__}"


def _arguments(call: partial[Any]) -> dict[str, Any]:
    """The arguments that a partial holds, by the names that the function gives them."""
    function: Callable[..., Any] = call.func
    try:
        return dict(inspect.signature(function).bind_partial(*call.args, **call.keywords).arguments)
    except (TypeError, ValueError):  # a builtin without a signature
        return {f"[{place}]": item for place, item in enumerate(call.args)} | call.keywords
