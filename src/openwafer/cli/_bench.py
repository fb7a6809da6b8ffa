"""`wafer bench`: measure a server of this machine, or of another."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from openwafer.base import EngineError, InputError, parse_bytes
from openwafer.cli._client import KeyFile, client_key
from openwafer.cli._serve import Demo, Device, Dtype, Execution, Memory, SystemCount, model_folder

bench = typer.Typer(help="Measure what is built.", no_args_is_help=True)


@bench.command("serve")
def bench_serve(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="URL|MODEL", help="A server, or a model's folder to serve.", show_default=False
        ),
    ] = None,
    demo: Demo = False,
    concurrency: Annotated[
        str, typer.Option(help="Clients at the same time, level by level.")
    ] = "1,2,4,8,16",
    requests: Annotated[
        int | None,
        typer.Option(help="Of each level; default four a client, at least 8.", show_default=False),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Of prompts of random words.")] = 128,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL file of prompts or messages, asked in turn.", show_default=False),
    ] = None,
    answer_tokens: Annotated[int, typer.Option(help="Of every answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Write the numbers there as JSON.", show_default=False)
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw them there, as PNG.", show_default=False)] = None,
    key_file: KeyFile = None,
    execution: Execution = "auto",
    systems: SystemCount = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    memory: Memory = None,
) -> None:
    """Ask a server from more and more clients at the same time; show throughput and latency at each number of them."""
    from openwafer.serve.bench import LoadPlan, LoadReport, draw_load, measure_load, read_chats

    plan = LoadPlan(
        concurrency=_numbers(concurrency),
        requests=requests,
        prompt_tokens=prompt_tokens,
        chats=read_chats(prompts) if prompts is not None else (),
        answer_tokens=answer_tokens,
        temperature=temperature,
    )
    for file in (out, picture):
        if file is not None and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise InputError(
                f"{file} cannot be written: {file.parent} is no folder to write to; name another file"
            )
    notes = Console(stderr=True, highlight=False, markup=False)

    def keep(report: LoadReport) -> None:
        if out is not None:
            report.save(out)

    with ExitStack() as stack:
        if demo or (where is not None and "://" not in where):
            from openwafer.serve.service import ServiceConfig, serve_apart

            signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
            config = ServiceConfig(
                folder=stack.enter_context(model_folder(Path(where) if where is not None else None, demo)),
                port=0,
                execution=execution,
                systems=systems,
                dtype=dtype,
                device=device,
                memory_bytes=parse_bytes(memory) if memory is not None else None,
            )
            where = stack.enter_context(serve_apart(config))
        elif where is None:
            raise InputError("name the URL of a server or the folder of a model, or give --demo")
        report = measure_load(where, plan, key=client_key(key_file), console=notes, ended=keep)
    keep(report)
    if report.levels:
        Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(report.table())
        if picture is not None:
            draw_load(report, picture)
    for line in report.remarks():
        notes.print(line, soft_wrap=True)
    if report.failure:
        raise EngineError(report.failure)
    if report.interrupted:
        notes.print("interrupted; these are the levels that were complete")
        raise typer.Exit(130)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--concurrency {text!r} is no list of numbers; write it as 1,2,4,8") from None
