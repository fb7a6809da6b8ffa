"""The commands."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from openwafer.base import InputError, WaferError, configure_logs
from openwafer.cli._bench import bench
from openwafer.cli._chat import chat
from openwafer.cli._csl import csl
from openwafer.cli._fabric import fabric
from openwafer.cli._host import Hosts, Listen, Port, TokenFile, host, over_hosts
from openwafer.cli._machine import show_machines
from openwafer.cli._serve import serve

app = typer.Typer(
    help="The open Wafer-Scale Cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Recipe = Annotated[
    Path, typer.Argument(help="A recipe file, for example recipes/gpt.py.", show_default=False)
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(help="Arguments of the recipe: size=medium data=~/text", show_default=False),
]
Systems = Annotated[int | None, typer.Option(help="Compute systems.", show_default=False)]
SystemMemory = Annotated[
    str | None, typer.Option(help="Memory of one system, for example 512MiB.", show_default=False)
]
MemoryX = Annotated[
    str | None,
    typer.Option(help="ram, disk, disk:/path, or disk:/path,/other: a shard on each.", show_default=False),
]
MemoryXShards = Annotated[
    int | None, typer.Option(help="MemoryX roles that share the layers.", show_default=False)
]
MemoryXMemory = Annotated[
    str | None,
    typer.Option(
        "--memoryx-memory",
        help="RAM that a disk store may use, or auto: what hides the disk.",
        show_default=False,
    ),
]
Execution = Annotated[
    str | None, typer.Option(help="auto, weight_streaming or pipelined.", show_default=False)
]
Microbatch = Annotated[
    str | None, typer.Option(help="auto, none or a number of samples.", show_default=False)
]
Recompute = Annotated[str | None, typer.Option(help="auto, yes or no.", show_default=False)]
ShardVocabulary = Annotated[
    str | None,
    typer.Option(help="Cut a vocabulary's weights by rows: auto, yes or no.", show_default=False),
]
Processes = Annotated[bool | None, typer.Option(help="Roles as processes or as threads.", show_default=False)]
Threads = Annotated[int | None, typer.Option(help="Arithmetic threads per system.", show_default=False)]
Device = Annotated[
    str | None, typer.Option(help="What systems compute on: cpu, cuda or cuda:N.", show_default=False)
]
Folder = Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>.", show_default=False)]


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
) -> None:
    """Train a recipe, on a cluster of this machine or over hosts that join."""
    from openwafer.train import fit_config

    config = _configure(
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
        result = fit_config(config, resume=resume, overwrite=overwrite, console=Console())
    except KeyboardInterrupt:
        typer.echo("Ended at once; --resume goes on from the last checkpoint, if there is one", err=True)
        raise typer.Exit(130) from None
    if result.interrupted:
        raise typer.Exit(130)


app.command()(host)
app.command()(serve)
app.command()(chat)
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
    from openwafer.train import plan_config

    config = _configure(
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


def _configure(
    recipe: Path,
    arguments: list[str] | None,
    folder: Path | None = None,
    microbatch: str | None = None,
    recompute: str | None = None,
    shard_vocabulary: str | None = None,
    **cluster: Any,
) -> Any:
    """The recipe's config, with the options that were given in place of its own."""
    from openwafer.train import load_recipe

    overrides = {}
    for argument in arguments or []:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(
                f"{argument!r} is no argument of a recipe; write name=value, for example size=small"
            )
        overrides[key] = value
    config = load_recipe(recipe, **overrides)
    changes = {name: value for name, value in cluster.items() if value is not None}
    if microbatch is not None:
        changes["microbatch"] = (
            None if microbatch == "none" else int(microbatch) if microbatch.isdigit() else microbatch
        )
    for name, choice in (("recompute", recompute), ("shard_vocabulary", shard_vocabulary)):
        if choice is not None:
            changes[name] = {"yes": True, "no": False}.get(choice, choice)
    config = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, **changes))
    return dataclasses.replace(config, folder=str(folder)) if folder is not None else config


def main() -> None:
    """Entry point: a WaferError is a message and exit status 1, never a traceback."""
    configure_logs()
    try:
        app(prog_name="wafer")
    except WaferError as error:
        Console(stderr=True, highlight=False, markup=False).print(f"error: {error}", soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        raise SystemExit(130) from None
