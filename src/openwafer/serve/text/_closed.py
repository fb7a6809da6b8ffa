"""Closes a schema's objects: what is written gets the properties that are named, and no others.

A schema that says nothing of further properties allows any, and a model whose answer is held to it may go on inventing
them until its tokens are used up. Nobody who asks for a call or for typed JSON wants them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "prefixItems")
_ONE = ("items", "additionalProperties")
"""Keywords whose values are schemas: by name, in a list, or one."""
_OPEN = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "minProperties"}
)
"""With these an object's schema says itself what else there may be."""
_CHOICES = frozenset({"anyOf", "oneOf", "$ref"})
_MEETING = frozenset({"allOf", "not", "if", "dependentSchemas"})
_REMARKS = frozenset(
    {"title", "description", "default", "examples", "type", "$defs", "definitions", "$schema", "$id"}
)


def closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` on every object that names properties and does not speak of others.

    What it admits, `schema` admits. If several parts of `schema` may hold for one object, nothing is changed: a part would
    forbid what another asks for.
    """
    return schema if any(map(_meets, _parts(schema))) else _closed(schema)


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every schema in a schema."""
    if isinstance(schema, Mapping):
        yield schema
        for key, value in schema.items():
            if key in _NAMED and isinstance(value, Mapping):
                value = list(value.values())
            elif key not in _LISTED and key not in _ONE:
                continue
            for part in value if isinstance(value, list) else [value]:
                yield from _parts(part)


def _meets(schema: Mapping[str, Any]) -> bool:
    """Whether other schemas hold beside this one."""
    choices = schema.keys() & _CHOICES
    return (
        bool(schema.keys() & _MEETING)
        or len(choices) > 1
        or bool(choices and schema.keys() - choices - _REMARKS)
    )


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            value = {name: _closed(part) for name, part in value.items()}
        elif key in _LISTED or key in _ONE:
            value = _closed(value)
        result[key] = value
    named, required = schema.get("properties"), schema.get("required", [])
    if (
        isinstance(named, Mapping)
        and named
        and not schema.keys() & _OPEN
        and isinstance(required, list)
        and all(isinstance(name, str) and name in named for name in required)
    ):
        result["additionalProperties"] = False
    return result
