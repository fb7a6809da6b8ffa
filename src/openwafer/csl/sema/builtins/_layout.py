"""The rectangle and what its tiles run."""

from __future__ import annotations

from openwafer.csl._diagnostics import Note
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._facts import LayoutFacts, TileCode
from openwafer.csl.sema._values import Value


def layout_facts(call: Call) -> LayoutFacts:
    """What the layout block collects; builtins of that stage run only where there is one."""
    assert call.engine.layout is not None
    return call.engine.layout


def tile(call: Call) -> tuple[int, int]:
    """The first two arguments: a tile of the rectangle."""
    layout = layout_facts(call)
    place = []
    if layout.rectangle is None:
        call.error(
            None,
            f"@{call.name} before @set_rectangle",
            hint="begin the layout block with @set_rectangle(width, height)",
        )
    for index, (name, size) in enumerate(zip(("x", "y"), layout.rectangle, strict=True)):
        number = call.integer(index, f"the {name} of a tile")
        if not 0 <= number < size:
            width, height = layout.rectangle
            call.error(
                call.span_of(index),
                f"{name} = {number} is outside of the rectangle, which is {width} wide and {height} high",
                hint=f"use 0..{size - 1}",
            )
        place.append(number)
    return place[0], place[1]


@builtin("set_rectangle", 2, stage="layout")
def set_rectangle(call: Call) -> Value:
    """Width and height of the program, once."""
    layout = layout_facts(call)
    if layout.rectangle_span is not None:
        call.engine.fail(
            call.span,
            "the rectangle is set twice",
            hint="a layout has one rectangle",
            notes=(Note(layout.rectangle_span, "the first time here"),),
        )
    size = [
        call.integer(index, f"the {name} of the rectangle", 1)
        for index, name in enumerate(("width", "height"))
    ]
    fabric, offset = call.engine.options.fabric, call.engine.options.offset
    if fabric is not None:
        for index, name in enumerate(("width", "height")):
            if offset[index] + size[index] > fabric[index]:
                call.error(
                    call.span_of(index),
                    f"the rectangle leaves the fabric: {name} {size[index]} at offset {offset[index]} of {fabric[index]}",
                    hint="compile with larger --fabric-dims, or make the rectangle smaller",
                )
    layout.rectangle, layout.rectangle_span = (size[0], size[1]), call.span
    return v.NOTHING


@builtin("set_tile_code", 2, 4, stage="layout")
def set_tile_code(call: Call) -> Value:
    """What a tile runs: a file, and the values of its params."""
    x, y = tile(call)
    tiles = layout_facts(call).tiles
    if (x, y) in tiles:
        call.engine.fail(
            call.span,
            f"tile ({x}, {y}) has its code already",
            hint="set the code of each tile once",
            notes=(Note(tiles[x, y].span, "set here"),),
        )
    file = call.text(2, "the name of a file") if len(call) > 2 else None
    params: dict[str, Value] = {}
    if len(call) > 3:
        params = call.fields(3, "the params of a tile")
        for name, value in params.items():
            if not value.known:
                call.error(call.field_span(3, name), f"the param `{name}` must be known at compile time")
    tiles[x, y] = TileCode(file, call.engine.frame.module.path, params, call.span)
    return v.NOTHING


@builtin("get_rectangle", 0)
def get_rectangle(call: Call) -> Value:
    """`.width`, `.height`, `.fabric` and `.offsets`."""
    layout, options = call.engine.layout, call.engine.options
    size = layout.rectangle if layout is not None else options.rectangle
    if size is None:
        if layout is not None:
            call.error(
                None, "@get_rectangle before @set_rectangle", hint="move it behind the call of @set_rectangle"
            )
        call.error(None, "this program is compiled without a layout, so there is no rectangle")
    return v.anonymous(
        width=Value(t.U16, size[0]),
        height=Value(t.U16, size[1]),
        fabric=_size(options.fabric or size),
        offsets=_size(options.offset),
    )


def _size(size: tuple[int, int]) -> Value:
    return v.anonymous(width=Value(t.U16, size[0]), height=Value(t.U16, size[1]))
