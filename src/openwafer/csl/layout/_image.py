"""A layout becomes an Image: its tiles, their programs and routes, and what the host may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openwafer.artifact._image import Image, Route, Tile
from openwafer.csl._assemble import assemble
from openwafer.csl._diagnostics import Diagnostic, DiagnosticError
from openwafer.csl._source import Span
from openwafer.csl.layout._evaluate import Layout, evaluate_layout
from openwafer.csl.layout._merge import merge_routes
from openwafer.csl.layout._programs import Programs, make_programs
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._facts import NO_ROUTES
from openwafer.csl.sema._module import Files, SourceFile
from openwafer.csl.sema._values import Value


@dataclass(frozen=True, slots=True)
class Checked:
    """A layout and its programs without errors, before code is made of them."""

    layout: Layout
    programs: Programs

    @property
    def warnings(self) -> list[Diagnostic]:
        """What is only suspicious."""
        return [*self.layout.warnings, *self.programs.warnings]

    @property
    def printed(self) -> list[tuple[Span, str]]:
        """What @comptime_print showed, in order."""
        return [*self.layout.printed, *self.programs.printed]


def check_layout(file: SourceFile, params: Mapping[str, Value], options: Options, files: Files) -> Checked:
    """The layout of a root file and the programs of its tiles.

    Raises DiagnosticError with everything that is wrong.
    """
    layout = evaluate_layout(file, params, options, files)
    if layout.diagnostics:
        raise DiagnosticError(layout.diagnostics)
    programs = make_programs(file, layout.facts, params, options, files)
    if not programs.diagnostics:
        _check_routes(layout, programs)
    if programs.diagnostics:
        raise DiagnosticError(programs.diagnostics)
    return Checked(layout, programs)


def _check_routes(layout: Layout, programs: Programs) -> None:
    """Routes that layout and program both give are errors too."""
    checked = set()
    for place, routes in layout.facts.routes.items():
        number = programs.program_of[place]
        pair = id(routes), number  # tiles that are configured alike share the mapping
        own = programs.programs[number].resources.routes
        if own and pair not in checked:
            merge_routes(place, routes, own, programs.diagnostics)
            checked.add(pair)


def make_image(
    checked: Checked,
    options: Options,
    *,
    params: Mapping[str, str],
    memcpy: bool = False,
    channels: int = 1,
) -> Image:
    """The Image of a layout. `params` are kept as text for the host.

    Raises CslError if a program needs more memory than a PE has.
    """
    facts, programs = checked.layout.facts, checked.programs
    assert facts.rectangle is not None
    assembly = assemble({number: one.unit for number, one in enumerate(programs.programs)})
    tiles = []
    merged: dict[tuple[int, int], dict[int, Route]] = {}
    width, height = facts.rectangle
    for y in range(height):
        for x in range(width):
            number, routes = programs.program_of[x, y], facts.routes.get((x, y), NO_ROUTES)
            pair = id(routes), number
            of_tile = merged.get(pair)
            if of_tile is None:
                own = programs.programs[number].resources.routes
                of_tile = merged[pair] = merge_routes((x, y), routes, own, [])
            tiles.append(Tile(x, y, assembly.program_of[number], of_tile))
    streams = checked.layout.streams
    return Image(
        architecture=options.architecture,
        fabric=options.fabric or facts.rectangle,
        offset=options.offset,
        rectangle=facts.rectangle,
        programs=assembly.programs,
        codes=assembly.codes,
        tiles=tuple(tiles),
        exports=tuple(one.export for one in facts.exports.values()),
        params=dict(params),
        streams=streams or {},
        memcpy=memcpy or streams is not None,
        channels=channels,
    )
