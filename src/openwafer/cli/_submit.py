"""`wafer submit`: give a recipe to the appliance, as it is now."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from openwafer.base import parse_bytes
from openwafer.cli._contact import Certificate, Cluster, TokenFile, client_of, labels_of
from openwafer.cli._jobs import follow
from openwafer.cli._recipe import (
    Arguments,
    Device,
    Execution,
    MemoryXMemory,
    MemoryXShards,
    Microbatch,
    Recipe,
    Recompute,
    ShardVocabulary,
    SystemMemory,
    Systems,
    Threads,
)
from openwafer.cli._recipe_facts import facts_of
from openwafer.cli._train_job import HOST_COMMAND, HOSTS_OPTIONS, REQUEST, TrainRequest


def submit(
    recipe: Recipe,
    arguments: Arguments = None,
    systems: Systems = None,
    min_systems: Annotated[
        int | None,
        typer.Option(help="Go on with so few, if the cluster has lost some.", show_default=False),
    ] = None,
    system_memory: SystemMemory = None,
    memoryx_shards: MemoryXShards = None,
    memoryx_memory: MemoryXMemory = None,
    execution: Execution = None,
    microbatch: Microbatch = None,
    recompute: Recompute = None,
    shard_vocabulary: ShardVocabulary = None,
    threads: Threads = None,
    device: Device = None,
    name: Annotated[
        str | None, typer.Option(help="The job's name; default the run's.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="name=value; may be repeated.", show_default=False)
    ] = None,
    priority: Annotated[
        str | None, typer.Option(help="p1, p2 (default) or p3, or 100 to 399.", show_default=False)
    ] = None,
    workflow: Annotated[
        str | None, typer.Option(help="The workflow that the job belongs to.", show_default=False)
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which the job is ended.", show_default=False)
    ] = None,
    restarts: Annotated[int, typer.Option(help="Restarts in a row, from the last checkpoint.")] = 3,
    memory: Annotated[
        str | None,
        typer.Option(help="MemoryX memory; default weights and optimizer state.", show_default=False),
    ] = None,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Only plan, in a compile slot; later jobs find the plan.")
    ] = False,
    reload: Annotated[
        bool, typer.Option(help="Load the recipe, even if nothing that it reads has changed.")
    ] = False,
    follow_log: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the log until the job ends.")
    ] = False,
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Submit a recipe as a job; prints the job's id. Recipe and arguments are taken as they are now."""
    from openwafer.appliance import COMPILE_ROOT, JobSpec, Spread, parse_priority

    chosen = {
        "system_memory": system_memory,
        "memoryx_shards": memoryx_shards,
        "memoryx_memory": memoryx_memory,
        "execution": execution,
        "threads": threads,
        "device": device,
    }
    with client_of(cluster, token_file, certificate) as client:
        request = TrainRequest(
            recipe=recipe.name,
            arguments=arguments or [],
            microbatch=microbatch,
            recompute=recompute,
            shard_vocabulary=shard_vocabulary,
            cluster={key: value for key, value in chosen.items() if value is not None},
        )
        weigh = memory is None and not compile_only
        facts = facts_of(recipe, request, systems, weigh=weigh, load=reload)
        memoryx_bytes = parse_bytes(memory) if memory is not None else facts.memoryx_bytes or 0
        request = msgspec.structs.replace(request, arguments=facts.absolute(request.arguments))
        files = {**facts.files(recipe), REQUEST: msgspec.json.encode(request)}
        words: tuple[str, ...] = ("{python}", "-m", "openwafer.cli", "train-job", f"{{job}}/source/{REQUEST}")
        words += (
            "--systems",
            "{systems}",
            "--memoryx",
            "{memoryx}",
            "--threads",
            "{threads}",
            "--folder",
            "{job}/run",
            "--compiled",
            f"{{job}}/../../{COMPILE_ROOT}",
        )
        if compile_only:
            # A compile job is given no systems, so the number that it plans for is its own.
            words = (
                *(str(facts.systems) if word == "{systems}" else word for word in words),
                "--compile-only",
            )
        spec = JobSpec(
            kind="compile" if compile_only else "train",
            command=words,
            resume_command=words,
            name=name or facts.name,
            compile_slots=int(compile_only),
            systems=0 if compile_only else facts.systems,
            min_systems=None if compile_only else min_systems,
            spread=None if compile_only else Spread(options=HOSTS_OPTIONS, agent=HOST_COMMAND),
            memoryx_bytes=0 if compile_only else memoryx_bytes,
            priority=None if priority is None else parse_priority(priority),
            labels={key: value for key, value in labels_of(label).items() if value is not None},
            workflow=workflow,
            time_limit_s=time_limit,
            max_restarts=restarts,
            tells_state=True,
        )
        job = client.submit(spec, files)
        typer.echo(job.id)
        if follow_log:
            follow(client, job.id)
