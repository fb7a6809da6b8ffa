"""`wafer fabric`: look at traces of the simulated fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openwafer.base import InputError
from openwafer.cli._fabric_validate import validate

fabric = typer.Typer(
    help="The simulated fabric: traces, and its cycles beside published ones.", no_args_is_help=True
)
fabric.command()(validate)
_Trace = Annotated[
    Path, typer.Argument(help="A file that `wafer csl run --trace` wrote.", show_default=False)
]


@fabric.command()
def trace(
    file: _Trace,
    most: Annotated[int, typer.Option(min=1, help="PEs to list: the busiest ones.")] = 16,
) -> None:
    """Say what a trace holds and where its cycles went: launches, busy and waiting PEs, the longest waits."""
    from openwafer.fabric import describe_time, load_trace, summarise_trace

    loaded = load_trace(file)
    facts = loaded.facts
    width, height = facts.rectangle
    typer.echo(
        f"{file}: {width} x {height} PEs on {facts.architecture}, timing {facts.timing}, "
        f"{loaded.records.size:,} records"
    )
    typer.echo(describe_time(summarise_trace(loaded), most), nl=False)


@fabric.command()
def export(
    file: _Trace,
    chrome: Annotated[
        Path | None,
        typer.Option(help="JSON for Perfetto and chrome://tracing.", metavar="FILE", show_default=False),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text, a line for each event.", metavar="FILE", show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="A page for a browser that shows the fabric over time; it needs no other file.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        str, typer.Option(help="The page's title; else the trace's name.", show_default=False)
    ] = "",
) -> None:
    """Write a trace in forms that other tools, or a browser, show. What a FILE held before is replaced."""
    from openwafer.fabric import load_trace
    from openwafer.fabric.view import write_chrome, write_page, write_text

    if chrome is None and text is None and html is None:
        raise InputError("wafer fabric export writes nothing by itself; give --chrome, --text or --html FILE")
    taken = {file.resolve(): "the trace"}
    for option, path in (("--chrome", chrome), ("--text", text), ("--html", html)):
        if path is None:
            continue
        if path.resolve() in taken:
            raise InputError(f"{option} {path} would replace {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = f"what {option} writes"
    loaded = load_trace(file)
    if chrome is not None:
        write_chrome(loaded, chrome)
        typer.echo(f"{chrome}: open it in Perfetto or chrome://tracing")
    if text is not None:
        write_text(loaded, text)
        typer.echo(f"{text}: one line for each event")
    if html is not None:
        cut = write_page(loaded, html, title or file.stem)
        typer.echo(f"{html}: {html.stat().st_size / 1e6:.1f} MB; open it in a browser")
        for sentence in cut:
            typer.echo(f"  {sentence}")
