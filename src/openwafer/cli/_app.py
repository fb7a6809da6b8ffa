"""The commands."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from openwafer.base import InputError, WaferError, configure_logs
from openwafer.cli._bench import bench
from openwafer.cli._chat import chat
from openwafer.cli._cluster import cluster
from openwafer.cli._csl import csl
from openwafer.cli._fabric import fabric
from openwafer.cli._host import Hosts, Listen, Port, TokenFile, host, over_hosts
from openwafer.cli._importing import importing
from openwafer.cli._jobs import job, jobs
from openwafer.cli._machine import show_machines
from openwafer.cli._recipe import (
    Arguments,
    Device,
    Execution,
    Folder,
    MemoryX,
    MemoryXMemory,
    MemoryXShards,
    Microbatch,
    Processes,
    Recipe,
    Recompute,
    Replan,
    ShardVocabulary,
    SystemMemory,
    Systems,
    Threads,
    configure,
    own_cache,
)
from openwafer.cli._serve import serve
from openwafer.cli._submit import submit
from openwafer.cli._train_job import train_job


class Commands(TyperGroup):
    """The commands, of which each may be interrupted: typer would end it without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="The open Wafer-Scale Cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def train(
    recipe: Recipe,
    arguments: Arguments = None,
    systems: Systems = None,
    system_memory: SystemMemory = None,
    memoryx: MemoryX = None,
    memoryx_shards: MemoryXShards = None,
    memoryx_memory: MemoryXMemory = None,
    execution: Execution = None,
    microbatch: Microbatch = None,
    recompute: Recompute = None,
    shard_vocabulary: ShardVocabulary = None,
    processes: Processes = None,
    threads: Threads = None,
    device: Device = None,
    hosts: Hosts = None,
    port: Port = None,
    listen: Listen = None,
    token_file: TokenFile = None,
    folder: Folder = None,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Start the folder's run anew.")] = False,
    replan: Replan = False,
) -> None:
    """Train a recipe, on a cluster of this machine or over hosts that join."""
    with importing():
        from openwafer.train import SavedPlans, fit_config

    saved = SavedPlans(own_cache("compile"), recipe, arguments or [], replan=replan)
    with saved.watching():
        config = configure(
            recipe,
            arguments,
            folder,
            microbatch,
            recompute,
            shard_vocabulary,
            systems=systems,
            system_memory=system_memory,
            memoryx=memoryx,
            memoryx_shards=memoryx_shards,
            memoryx_memory=memoryx_memory,
            execution=execution,
            processes=processes,
            threads=threads,
            device=device,
        )
    cluster = over_hosts(config.cluster, hosts, port, listen, token_file)
    config = dataclasses.replace(config, cluster=cluster)
    try:
        result = fit_config(config, resume=resume, overwrite=overwrite, console=Console(), saved=saved)
    except KeyboardInterrupt:
        typer.echo("Ended at once; --resume goes on from the last checkpoint, if there is one", err=True)
        raise typer.Exit(130) from None
    if result.interrupted:
        raise typer.Exit(130)


app.command()(host)
app.command()(serve)
app.command()(chat)
app.command()(submit)
app.command()(jobs)
app.command("train-job", hidden=True)(train_job)
app.add_typer(cluster, name="cluster")
app.add_typer(job, name="job")
app.add_typer(bench, name="bench")
app.add_typer(csl, name="csl")
app.add_typer(fabric, name="fabric")


@app.command()
def plan(
    recipe: Recipe,
    arguments: Arguments = None,
    systems: Systems = None,
    system_memory: SystemMemory = None,
    memoryx: MemoryX = None,
    memoryx_shards: MemoryXShards = None,
    memoryx_memory: MemoryXMemory = None,
    execution: Execution = None,
    microbatch: Microbatch = None,
    recompute: Recompute = None,
    shard_vocabulary: ShardVocabulary = None,
    device: Device = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the whole plan there as JSON.", show_default=False)
    ] = None,
) -> None:
    """Show what would run how, and in how much memory; run nothing."""
    from openwafer.artifact import describe_plan, plan_to_json

    with importing():
        from openwafer.train import plan_config

    config = configure(
        recipe,
        arguments,
        None,
        microbatch,
        recompute,
        shard_vocabulary,
        systems=systems,
        system_memory=system_memory,
        memoryx=memoryx,
        memoryx_shards=memoryx_shards,
        memoryx_memory=memoryx_memory,
        execution=execution,
        device=device,
    )
    made = plan_config(config, evaluate=json is not None)
    sys.stdout.write(describe_plan(made))
    if json is not None:
        try:
            json.write_bytes(plan_to_json(made))
        except OSError as error:
            raise InputError(
                f"--json {json} cannot be written: {error.strerror}; name another file"
            ) from error


@app.command()
def machine(
    name: Annotated[str | None, typer.Argument(help="WSE-3, CS-2, ...", show_default=False)] = None,
) -> None:
    """Show what is known of the hardware, each number with its grade and source."""
    show_machines(name, Console())


@app.command()
def checkpoint(
    folder: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.", show_default=False)],
    verify: Annotated[bool, typer.Option(help="Read every byte and compare hashes.")] = False,
) -> None:
    """Show a checkpoint, or the checkpoints of a run; verify them."""
    from openwafer.cluster.store import Checkpoint, list_checkpoints

    inner = folder / "checkpoints"
    found = list_checkpoints(inner if inner.is_dir() else folder) or (folder,)
    for path in found:
        opened = Checkpoint.open(path, verify=verify)
        count = len(opened.weights)
        typer.echo(f"{path}: step {opened.step}, {count} weights{', hashes agree' if verify else ''}")


def main() -> None:
    """Entry point: a WaferError is a message and exit status 1, never a traceback."""
    configure_logs()
    try:
        app(prog_name="wafer")
    except WaferError as error:
        Console(stderr=True, highlight=False, markup=False).print(f"error: {error}", soft_wrap=True)
        raise SystemExit(1) from None
