"""The options of the commands that take a recipe, and the config that comes of them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from openwafer.base import InputError

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
Replan = Annotated[
    bool, typer.Option(help="Plan anew, whatever the compile cache holds; see docs/running.md.")
]
Folder = Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>.", show_default=False)]


def configure(
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


def own_cache(name: str) -> Path:
    """A folder of what this account's commands keep to save time, outside any appliance."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base, "openwafer", name)
