"""`wafer submit`: give a recipe to the appliance, as it is now."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from openwafer.base import StorageError, parse_bytes
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
        # Loaded here and now, so that a mistake is told to whoever made it, and not to a log hours later.
        config = request.config(recipe.parent, systems=systems)
        files = _sources(recipe)
        request = msgspec.structs.replace(request, arguments=_absolute(recipe, request.arguments))
        files[REQUEST] = msgspec.json.encode(request)
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
                *(str(config.cluster.systems) if word == "{systems}" else word for word in words),
                "--compile-only",
            )
        spec = JobSpec(
            kind="compile" if compile_only else "train",
            command=words,
            resume_command=words,
            name=name or config.name,
            compile_slots=int(compile_only),
            systems=0 if compile_only else config.cluster.systems,
            min_systems=None if compile_only else min_systems,
            spread=None if compile_only else Spread(options=HOSTS_OPTIONS, agent=HOST_COMMAND),
            memoryx_bytes=0 if compile_only else _memory(memory, config),
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


def _memory(memory: str | None, config: Any) -> int:
    from openwafer.train import memoryx_bytes

    return parse_bytes(memory) if memory is not None else memoryx_bytes(config)


def _sources(recipe: Path) -> dict[str, bytes]:
    """The recipe, which was loaded, and the modules beside and below it that it imported."""
    folder = recipe.resolve().parent
    found = {recipe.name: recipe.resolve()}
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "")
        # Some modules only pretend to have a file, with a name that is not a whole path.
        if file.suffix == ".py" and file.is_absolute() and file.resolve().is_relative_to(folder):
            found[str(file.resolve().relative_to(folder))] = file
    try:
        return {name: path.read_bytes() for name, path in found.items()}
    except OSError as error:
        raise StorageError(
            f"{error.filename} cannot be read: {error.strerror}; check its permissions"
        ) from error


def _absolute(recipe: Path, arguments: list[str]) -> list[str]:
    """Arguments that name files here, with their full paths: the job runs in another folder."""
    function = getattr(sys.modules.get(recipe.stem.replace(".", "_")), "recipe", None)
    parameters = inspect.signature(function).parameters if callable(function) else {}
    return [_absolute_argument(word, parameters) for word in arguments]


def _absolute_argument(word: str, parameters: Any) -> str:
    name, _, value = word.partition("=")
    path = Path(value).expanduser()
    default = parameters[name].default if name in parameters else None
    # A word such as `small` means a path only where the recipe does not already have such a word.
    is_word = isinstance(default, str) and path.name == value
    return word if is_word or not value or not path.exists() else f"{name}={path.resolve()}"
