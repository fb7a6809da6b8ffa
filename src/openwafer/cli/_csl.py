"""`wafer csl`: compile and run CSL programs, say what is wrong with them, print their canonical text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from openwafer.base import CslError, InputError
from openwafer.csl import DiagnosticError, Source
from openwafer.csl.syntax import Dialect, ast, parse, print_file

csl = typer.Typer(help="Programs for the wafer in CSL.", no_args_is_help=True)
_Dialect = Annotated[str, typer.Option("--dialect", help="The language of SDK 1.4 or of SDK 2.10.")]


@csl.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="CSL files.", show_default=False)],
    dialect: _Dialect = "1.4",
) -> None:
    """Say what is wrong with each file, by now with its syntax; exit 1 if anything is."""
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


@csl.command(context_settings=_PASSED_ON)
def run(context: typer.Context) -> None:
    """Run a host script with the import names of the SDK, as cs_python does: SCRIPT [arguments]"""
    from openwafer.compat import cs_python

    raise typer.Exit(cs_python(context.args))


def _dialect(name: str) -> Dialect:
    if name in get_args(Dialect):
        return cast(Dialect, name)
    raise InputError(f"--dialect {name} is not known; choose 1.4 or 2.10")


def _parsed(path: Path, dialect: Dialect) -> ast.File | None:
    """The tree of a file; None after its errors were printed. Raises InputError if there is no such file."""
    try:
        return parse(Source.read(path), dialect=dialect)
    except DiagnosticError as error:
        typer.echo(str(error), err=True)
    except CslError as error:
        typer.echo(f"error: {error}", err=True)
    return None
