"""Runs the layout block of a program's root file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from openwafer.csl._diagnostics import Diagnostic
from openwafer.csl._source import Span
from openwafer.csl.layout._streams import memcpy_streams
from openwafer.csl.layout._tracing import TracingEngine
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._facts import LayoutFacts
from openwafer.csl.sema._module import Files, SourceFile
from openwafer.csl.sema._nesting import deep_nesting
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import ast


@dataclass(frozen=True, slots=True)
class Layout:
    """What a layout block says, complete if there are no diagnostics."""

    facts: LayoutFacts
    streams: dict[int, Literal["in", "out"]] | None
    """memcpy's streaming colors; None without memcpy."""
    diagnostics: list[Diagnostic]
    warnings: list[Diagnostic]
    printed: list[tuple[Span, str]]
    """What @comptime_print showed."""


@deep_nesting()
def evaluate_layout(
    file: SourceFile, params: Mapping[str, Value], options: Options, files: Files, *, tracing: bool = True
) -> Layout:
    """The layout of a root file whose params have these values.

    Without `tracing` every iteration of a loop is walked; what comes out is the same, and takes far longer.
    """
    engine = TracingEngine(options, files, file.source.name)
    facts = engine.layout = LayoutFacts()
    root = engine.instantiate(file, dict(params))
    if not engine.diagnostics:
        engine.tracing = tracing
        engine.run_stages("layout", root)
    diagnostics = engine.diagnostics or _missing(file, facts)
    return Layout(facts, memcpy_streams(engine.modules), diagnostics, engine.warnings, engine.printed)


def _missing(file: SourceFile, facts: LayoutFacts) -> list[Diagnostic]:
    """What every layout has to say."""
    stages = [one for one in file.tree.declarations if isinstance(one, ast.Stage) and one.kind == "layout"]
    if not stages:
        start = Span(file.source, 0, 1)
        hint = "add `layout { @set_rectangle(width, height); ... }`, or name the file that has it"
        return [Diagnostic(span=start, message="the program has no layout block", hint=hint)]
    head = Span(file.source, stages[0].span.start, stages[0].span.start + len("layout"))
    if facts.rectangle is None:
        hint = "begin it with @set_rectangle(width, height)"
        return [Diagnostic(span=head, message="the layout block sets no rectangle", hint=hint)]
    width, height = facts.rectangle
    if len(facts.tiles) == width * height:
        return []
    places = ((x, y) for y in range(height) for x in range(width))
    x, y = next(place for place in places if place not in facts.tiles)
    count = width * height - len(facts.tiles)
    others = f", and {count - 1} other{'s' * (count > 2)} have none either" if count > 1 else ""
    return [
        Diagnostic(
            span=facts.rectangle_span or head,
            message=f"tile ({x}, {y}) has no code{others}",
            hint=f'add @set_tile_code({x}, {y}, "file.csl") for every tile; "<empty>" does nothing',
        )
    ]
