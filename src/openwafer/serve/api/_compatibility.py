"""Values to Structs, strictly or leniently: fields that nobody here knows are refused by name, or left out by name."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from openwafer.serve.api._errors import invalid

T = TypeVar("T", bound=msgspec.Struct)


def convert(value: Any, kind: type[T], *, strict: bool) -> tuple[T, list[str]]:
    """The request, and the unknown fields that it had (as `messages.2.assistant.thinking`), which are left out.

    Raises ApiError (400) that names the field for a wrong value, and, if strict, every unknown field.
    """
    if not isinstance(value, dict):
        raise invalid("The request's body must be a JSON object.")
    if not strict:
        _rename(value)
    unknown = list(_take_unknown(value, kind, ""))
    if unknown and strict:
        raise invalid("\n".join(f"{p}: property '{p}' is unsupported" for p in unknown), unknown[0])
    try:
        return msgspec.convert(value, kind), unknown
    except (msgspec.ValidationError, OverflowError) as e:
        message, _, path = str(e).partition(" - at `")
        where = re.sub(
            r"\[(\d+|\.\.\.)\]", r".\1", path.removesuffix("`").removeprefix("key in ")
        ).removeprefix("$")
        where = where.strip("`.")
        field = re.search(r"(?:required|unknown) field `(\w+)`", message)
        if field:
            where = f"{where}.{field[1]}".strip(".")
        raise invalid(f"{where}: {message}" if where else message, where) from e


def _rename(value: dict[str, Any]) -> None:
    """What other servers call `reasoning`, clients send back with their next request."""
    messages = value.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and isinstance(message.get("reasoning_content"), str):
            text = message.pop("reasoning_content")
            message.setdefault("reasoning", text)


def _take_unknown(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Take away what no Struct on the way has as a field, and say where it was."""
    match value:
        case dict():
            struct = _struct(hint, value)
            if struct is None:
                return
            tag = struct.__struct_config__.tag_field
            known = _fields(struct)
            if tag and path and isinstance(value[tag], str):
                path += f".{value[tag]}"
            for key in list(value):
                at = f"{path}.{key}" if path else key
                if key in known:
                    yield from _take_unknown(value[key], known[key], at)
                elif key != tag:
                    del value[key]
                    yield at
        case list():
            arms = [a for a in _arms(hint) if get_origin(a) is list]
            for i, item in enumerate(value if arms else ()):
                yield from _take_unknown(item, get_args(arms[0])[0], f"{path}.{i}")


def _struct(hint: Any, value: dict[str, Any]) -> type[msgspec.Struct] | None:
    for arm in _arms(hint):
        if isinstance(arm, type) and issubclass(arm, msgspec.Struct):
            config = arm.__struct_config__
            if config.tag_field is None or value.get(config.tag_field) == config.tag:
                return arm
    return None


def _arms(hint: Any) -> list[Any]:
    if get_origin(hint) is Annotated:
        return _arms(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [a for arm in get_args(hint) for a in _arms(arm)]
    return [hint]


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(struct, include_extras=True)
    return {f.encode_name: hints[f.name] for f in msgspec.structs.fields(struct)}
