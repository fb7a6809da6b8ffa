"""@set_color_config and @set_local_color_config as builtins; `_color_config` says what their settings mean."""

from __future__ import annotations

from typing import Any, NoReturn

from openwafer.artifact._image import Route
from openwafer.csl._diagnostics import Note
from openwafer.csl._source import Span
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._color_config import color_config
from openwafer.csl.sema.builtins._ids import limits, require_color
from openwafer.csl.sema.builtins._layout import layout_facts, tile
from openwafer.csl.syntax import ast


def plain(value: Value) -> Any:
    """A known value as dicts, tuples, ints, bools and names of directions."""
    if isinstance(value.type, t.Record):
        if value.type.names is None:
            return tuple(plain(one) for one in value.data)
        return {name: plain(one) for name, one in v.fields(value).items()}
    return value.data


def part_span(node: ast.Expression, path: str) -> Span:
    """Where a part of a struct is written, such as `routes.rx`, as far as it is written as a literal."""
    for name in path.split("."):
        entries = node.entries if isinstance(node, ast.Aggregate) else ()
        found = next((one for one in entries if isinstance(one, ast.FieldValue) and one.name == name), None)
        if found is None:
            break
        node = found.value
    return node.span


def _route(call: Call, index: int) -> tuple[int, Route]:
    color = require_color(call, call.known(index, "the color", t.COLOR), call.span_of(index))
    config = call.known(index + 1, "the configuration of a color")

    def fail(message: str, *, hint: str = "", at: str = "") -> NoReturn:
        call.error(part_span(call.arguments[index + 1], at), message, hint=hint)

    settings = plain(config)
    if not isinstance(settings, dict):
        call.error(
            call.span_of(index + 1),
            "the configuration of a color",
            expected="a struct `.{ .routes = ... }`",
            found=f"`{config.type}`",
        )
    return color, color_config(settings, color, call.architecture, fail)


def _twice(call: Call, color: int, where: str, old: Span) -> NoReturn:
    call.engine.fail(
        call.span,
        f"color {color} {where} is configured twice",
        hint="put routes, switches and filter of a color into one call",
        notes=(Note(old, "the first time here"),),
    )


@builtin("set_local_color_config", 2, stage="block")
def set_local_color_config(call: Call) -> Value:
    """The routes of a color on every tile that runs this program."""
    color, route = _route(call, 0)
    resources = call.engine.resources
    if color in resources.routes:
        _twice(call, color, "of this program", resources.routes[color][1])
    if route.filter is not None:
        if len(resources.filters) == limits(call).filters:
            call.error(None, f"a PE has {limits(call).filters} filters, this is one more")
        resources.filters[color] = len(resources.filters)
    resources.routes[color] = (route, call.span)
    return v.NOTHING


@builtin("set_color_config", 4, stage="layout")
def set_color_config(call: Call) -> Value:
    """The routes of a color on one tile."""
    x, y = tile(call)
    color, route = _route(call, 2)
    facts = layout_facts(call)
    routes = facts.routes.get((x, y), {})
    if color in routes:
        _twice(call, color, f"of tile ({x}, {y})", routes[color][1])
    if route.filter is not None:
        used = sum(one.filter is not None for one, _ in routes.values())
        if used == limits(call).filters:
            call.error(None, f"tile ({x}, {y}) has {used} filters, this is one more")
    facts.add_route((x, y), color, facts.route(route, call.span))
    return v.NOTHING
