"""Routes of a tile: what the layout says about it and what its program says about itself."""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.artifact._image import Route
from openwafer.csl._diagnostics import Diagnostic, Note
from openwafer.csl._source import Span


def merge_routes(
    place: tuple[int, int],
    layout: Mapping[int, tuple[Route, Span]],
    program: Mapping[int, tuple[Route, Span]],
    errors: list[Diagnostic],
) -> dict[int, Route]:
    """The routes by color. A color that both configure is added to `errors`, once for each pair of calls."""
    for color in layout.keys() & program.keys():
        first, second = layout[color][1], program[color][1]
        if any(one.span == second and one.notes[:1] and one.notes[0].span == first for one in errors):
            continue
        errors.append(
            Diagnostic(
                span=second,
                message=f"color {color} of tile {place} is configured by the layout too",
                hint="keep @set_color_config or @set_local_color_config for it, not both",
                notes=(Note(first, "configured here"),),
            )
        )
    merged = {**layout, **program}
    return {color: merged[color][0] for color in sorted(merged)}
