"""`wafer fabric validate`: our programs' cycles beside the published ones."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from openwafer.artifact._image import Architecture
from openwafer.base import InputError


def validate(
    architecture: Annotated[
        str | None, typer.Option(help="wse2 or wse3; default both.", show_default=False)
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="A JSON file of your own rows, instead of the published ones.", show_default=False),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the rows there as JSON as well.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the errors there, as a PNG file.", show_default=False)
    ] = None,
) -> None:
    """Run the programs of the published timing tables, and show published and simulated cycles side by side.

    Ends with status 1 if a row is beyond its bound.
    """
    from openwafer.kernels.validate import ROWS, Row, read_rows, results_json, results_picture, show_results
    from openwafer.kernels.validate import validate as validate_rows

    if architecture is not None and architecture not in get_args(Architecture):
        raise InputError(f"--architecture {architecture} is not known; choose wse2 or wse3")
    chosen = ROWS if rows is None else read_rows(rows)
    chosen = tuple(row for row in chosen if architecture in (None, row.architecture))
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("validate", total=len(chosen))

        def tell(row: Row) -> None:
            progress.update(bar, advance=1, description=f"{row.architecture}: {row.name}")

        results = validate_rows(chosen, tell=tell)
    show_results(results, console)
    if json is not None:
        _write("--json", json, (json_module.dumps(results_json(results), indent=2) + "\n").encode())
    if picture is not None:
        _write("--picture", picture, results_picture(results))
    if any(one.holds is False for one in results):
        raise typer.Exit(1)


def _write(option: str, path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}; name another file") from error
