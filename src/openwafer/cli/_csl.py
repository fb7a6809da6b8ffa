"""`wafer csl`: compile and run CSL programs, say what is wrong with them, print their canonical text."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, cast, get_args

import msgspec
import typer
from rich.console import Console

from openwafer.base import CslError, InputError

if TYPE_CHECKING:
    from openwafer.csl.syntax import Dialect, ast

csl = typer.Typer(help="Programs for the wafer in CSL.", no_args_is_help=True)
_Dialect = Annotated[str, typer.Option("--dialect", help="The language of SDK 1.4 or of SDK 2.10.")]


@csl.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="CSL files.", show_default=False)],
    dialect: _Dialect = "1.4",
) -> None:
    """Say what is wrong with the syntax of each file; exit 1 if anything is. `compile` finds the rest."""
    chosen, failed = _dialect(dialect), False
    for path in files:
        file = _parsed(path, chosen)
        failed |= file is None
        if file is not None:
            typer.echo(f"{path}: ok: {len(file.declarations)} declarations")
    if failed:
        raise typer.Exit(1)


@csl.command("print")
def print_(
    file: Annotated[Path, typer.Argument(help="A CSL file.", show_default=False)],
    dialect: _Dialect = "1.4",
) -> None:
    """Print a file in the canonical form, without its comments."""
    from openwafer.csl.syntax import print_file

    parsed = _parsed(file, _dialect(dialect))
    if parsed is None:
        raise typer.Exit(1)
    typer.echo(print_file(parsed), nl=False)


_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@csl.command("compile", context_settings=_PASSED_ON)
def compile_(context: typer.Context) -> None:
    """Compile a layout, with the flags of cslc: LAYOUT.csl --fabric-dims=W,H ..."""
    from openwafer.compat import cslc

    raise typer.Exit(cslc(context.args))


# What stands behind the script is the script's, whatever it looks like.
_SCRIPT = {
    **_PASSED_ON,
    "allow_interspersed_args": False,
    "ignore_unknown_options": False,
    "help_option_names": ["--help"],
}


@csl.command(context_settings=_SCRIPT)
def run(
    context: typer.Context,
    time: Annotated[bool, typer.Option("--time", help="Say where the cycles went.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Record what PEs and wavelets do; `wafer fabric` shows it.", show_default=False),
    ] = None,
) -> None:
    """Run a host script with the import names of the SDK, as cs_python does: SCRIPT [arguments]"""
    from openwafer.compat import cs_python

    if time:
        os.environ["WAFER_TIME"] = "1"
    if trace is not None:
        os.environ["WAFER_TRACE"] = str(trace)
    raise typer.Exit(cs_python(context.args))


@csl.command(context_settings=_PASSED_ON | {"help_option_names": ["--help"]})
def report(
    context: typer.Context,
    program: Annotated[
        Path,
        typer.Argument(
            help="A folder that compile wrote, or LAYOUT.csl with flags of cslc.", show_default=False
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """Show what a program takes of its PEs: memory, colors, queues, task ids, DSRs, FIFOs."""
    from openwafer.cli._report import show_report
    from openwafer.fabric import report_image
    from openwafer.host import SdkCompileArtifacts

    if program.suffix == ".csl":
        from openwafer.compat import compile_folder, parse_flags

        with TemporaryDirectory() as folder:
            compile_folder(parse_flags([str(program), *context.args, "-o", folder]))
            image = SdkCompileArtifacts(folder).image()
    elif context.args:
        raise InputError(f"{context.args[0]}: flags are for layouts, and {program} is compiled")
    else:
        image = SdkCompileArtifacts(program).image()
    made = report_image(image)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    else:
        show_report(made, Console())


def _dialect(name: str) -> Dialect:
    from openwafer.csl.syntax import Dialect

    if name in get_args(Dialect):
        return cast("Dialect", name)
    raise InputError(f"--dialect {name} is not known; choose 1.4 or 2.10")


def _parsed(path: Path, dialect: Dialect) -> ast.File | None:
    """The tree of a file; None after its errors were printed. Raises InputError if there is no such file."""
    from openwafer.csl import DiagnosticError, Source
    from openwafer.csl.syntax import parse

    try:
        return parse(Source.read(path), dialect=dialect)
    except DiagnosticError as error:
        typer.echo(str(error), err=True)
    except CslError as error:
        typer.echo(f"error: {error}", err=True)
    return None
