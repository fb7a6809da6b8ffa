"""From files to data: a layout with its programs becomes an Image, one program becomes PE-IR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from openwafer.artifact._image import Image
from openwafer.base import InputError
from openwafer.csl import ir
from openwafer.csl._diagnostics import Diagnostic, DiagnosticError
from openwafer.csl._source import Span
from openwafer.csl.layout import Checked, Programs, check_layout, make_image, make_program, parse_params
from openwafer.csl.sema._core import MAX_INLINED_ITERATIONS, Options
from openwafer.csl.sema._module import Files
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import Dialect

Tell = Callable[[str], None]


def compile_program(
    path: Path,
    *,
    params: Mapping[str, str],
    architecture: Literal["wse2", "wse3"],
    fabric: tuple[int, int],
    offset: tuple[int, int],
    memcpy: bool,
    channels: int = 1,
    dialect: Dialect = "1.4",
    import_paths: tuple[Path, ...] = (),
    colors: Mapping[str, str] | None = None,
    half: Literal["f16", "bf16", "cb16"] = "f16",
    max_inlined_iterations: int = MAX_INLINED_ITERATIONS,
    tell: Tell | None = None,
) -> Image:
    """The Image of the layout in the file at `path`, with the programs of all its tiles.

    `params` and `colors` are texts, as the command line has them. `fabric` is width and height, `offset` where the
    rectangle's north-west corner lies. `tell` gets what @comptime_print shows, and warnings, line by line.

    Raises DiagnosticError for what is wrong with the program, InputError for files, params and sizes, CslError for a program
    that needs more memory than a PE has.
    """
    files = Files(dialect, import_paths)
    options = Options(
        architecture=architecture,
        dialect=dialect,
        half=half,
        max_inlined_iterations=max_inlined_iterations,
        fabric=fabric,
        offset=offset,
    )
    file = files.load(path)
    given = parse_params(params, file.tree, file.source.name)
    given |= parse_params(colors or {}, file.tree, file.source.name, option="--colors")
    checked = check_layout(file, given, options, files)
    _tell(checked, tell)
    rectangle = checked.layout.facts.rectangle
    assert rectangle is not None
    _check_size(rectangle, fabric, offset)
    texts = {**params, **(colors or {})}
    return make_image(checked, options, params=texts, memcpy=memcpy, channels=channels)


def compile_unit(
    path: Path,
    params: Mapping[str, Value],
    *,
    options: Options,
    files: Files | None = None,
    tell: Tell | None = None,
) -> ir.Unit:
    """One program of a PE as PE-IR, for params as a layout binds them.

    Programs that share files parse them once if they share `files`. Raises DiagnosticError, InputError, CslError.
    """
    files = files or Files(options.dialect)
    made = Programs()
    program = make_program(files.load(path), params, options, files, made)
    _tell(made, tell)
    if made.diagnostics:
        raise DiagnosticError(made.diagnostics)
    return program.unit


def _tell(made: Checked | Programs, tell: Tell | None) -> None:
    if tell is None:
        return
    printed: list[tuple[Span, str]] = made.printed
    warnings: list[Diagnostic] = made.warnings
    for _, text in printed:
        tell(text)
    for one in warnings:
        line, column = one.span.source.position(one.span.start)
        tell(f"{one.span.source.name}:{line}:{column}: warning: {one.headline}")


def _check_size(rectangle: tuple[int, int], fabric: tuple[int, int], offset: tuple[int, int]) -> None:
    for what, size, start, have in zip(("wide", "high"), rectangle, offset, fabric, strict=True):
        if start + size > have:
            raise InputError(
                f"the program is {size} PEs {what} and starts at {start}, but the fabric is only {have} {what}; "
                f"raise --fabric-dims or lower --fabric-offsets"
            )
