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
    json: Annotated[
        Path | None, typer.Option(help="Write the rows there as JSON as well.", show_default=False)
    ] = None,
) -> None:
    """Run the programs of the published timing tables, and show published and simulated cycles side by side.

    Ends with status 1 if a row is beyond its bound that is not known to be.
    """
    from openwafer.kernels.validate import ROWS, Row, results_json, show_results
    from openwafer.kernels.validate import validate as validate_rows

    if architecture is not None and architecture not in get_args(Architecture):
        raise InputError(f"--architecture {architecture} is not known; choose wse2 or wse3")
    rows = [row for row in ROWS if architecture in (None, row.architecture)]
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("validate", total=len(rows))

        def tell(row: Row) -> None:
            progress.update(bar, advance=1, description=f"{row.architecture}: {row.name}")

        results = validate_rows(rows, tell=tell)
    show_results(results, console)
    if json is not None:
        try:
            json.write_text(json_module.dumps(results_json(results), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--json {json} cannot be written: {error.strerror}; name another file"
            ) from error
    if any(one.holds is False and not (one.row.excuse or one.row.missed) for one in results):
        raise typer.Exit(1)
