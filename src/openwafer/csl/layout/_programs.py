"""The PE programs of a layout: each file with each choice of params is compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from openwafer.base import InputError
from openwafer.csl._diagnostics import Diagnostic, DiagnosticError
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.layout._tiles import Place, group_tiles
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._engine import Engine
from openwafer.csl.sema._facts import LayoutFacts, Resources, TileCode
from openwafer.csl.sema._module import LIBRARY, Files, SourceFile
from openwafer.csl.sema._nesting import deep_nesting
from openwafer.csl.sema._values import Value


@dataclass(frozen=True, slots=True)
class PeProgram:
    """A PE program and what its comptime blocks said beside the code."""

    unit: ir.Unit
    resources: Resources


@dataclass(slots=True)
class Programs:
    """The programs of all tiles."""

    program_of: dict[Place, int] = field(default_factory=dict)
    programs: list[PeProgram] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)
    printed: list[tuple[Span, str]] = field(default_factory=list)


def make_programs(
    root: SourceFile, facts: LayoutFacts, params: Mapping[str, Value], options: Options, files: Files
) -> Programs:
    """Compiles what the tiles of a layout run. `params` are those of the root file, for tiles that run it themselves."""
    made = Programs()
    options = replace(options, exports=facts.exports, rectangle=facts.rectangle)
    for places in group_tiles(facts.tiles).values():
        code = facts.tiles[places[0]]
        file = _file(code, files, made)
        if file is None:
            continue
        bound = {**params, **code.params} if file is root else code.params
        shared: int | None = None
        for place in places:
            if shared is None:
                program = make_program(file, bound, replace(options, place=place), files, made, code.span)
                number = len(made.programs)
                made.programs.append(program)
                if not program.resources.asked_place:
                    shared = number
            made.program_of[place] = number
    return made


@deep_nesting()
def make_program(
    file: SourceFile,
    params: Mapping[str, Value],
    options: Options,
    files: Files,
    into: Programs,
    span: Span | None = None,
) -> PeProgram:
    """One PE program; its diagnostics, warnings and output go `into`. `span` is where a tile is said to run it."""
    engine = Engine(options, files, file.source.name)
    context = nullcontext() if span is None else engine.context(span, "a tile runs this program by this call")
    with context:
        root = engine.instantiate(file, dict(params))
        engine.run_stages("comptime", root)
        engine.finish()
    told = {(one.span, one.headline) for one in into.diagnostics}
    into.diagnostics.extend(one for one in engine.diagnostics if (one.span, one.headline) not in told)
    warned = {(one.span, one.headline) for one in into.warnings}
    into.warnings.extend(one for one in engine.warnings if (one.span, one.headline) not in warned)
    into.printed.extend(engine.printed)
    return PeProgram(engine.unit, engine.resources)


def _file(code: TileCode, files: Files, made: Programs) -> SourceFile | None:
    """The file that a tile runs; errors go into `made`."""
    if code.file is None:
        return files.load(code.importer)
    found = files.find(code.file, code.importer)
    if found is None:
        hint = f"name it relative to {code.importer.name}, or add its folder to the import paths"
        made.diagnostics.append(
            Diagnostic(span=code.span, message=f"there is no file `{code.file}`", hint=hint)
        )
        return None
    try:
        return files.load(found, code.file if found.is_relative_to(LIBRARY) else None)
    except DiagnosticError as error:
        made.diagnostics.extend(one for one in error.diagnostics if one not in made.diagnostics)
    except InputError as error:
        made.diagnostics.append(Diagnostic(span=code.span, message=str(error)))
    return None
