"""A layout becomes an Image: its tiles, their programs and routes, and what the host may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openwafer.artifact._image import Image, Tile
from openwafer.csl._assemble import assemble
from openwafer.csl._diagnostics import Diagnostic, DiagnosticError
from openwafer.csl._source import Span
from openwafer.csl.layout._evaluate import Layout, evaluate_layout
from openwafer.csl.layout._merge import merge_routes
from openwafer.csl.layout._programs import Programs, make_programs
from openwafer.csl.sema._core import Options
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
    for place, routes in layout.facts.routes.items():
        merge_routes(
            place,
            routes,
            programs.programs[programs.program_of[place]].resources.routes,
            programs.diagnostics,
        )


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
    for (x, y), number in sorted(programs.program_of.items(), key=lambda one: (one[0][1], one[0][0])):
        own = programs.programs[number].resources.routes
        routes = merge_routes((x, y), facts.routes.get((x, y), {}), own, [])
        tiles.append(Tile(x, y, assembly.program_of[number], routes))
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
