"""What a native job of the appliance runs: a recipe that came with it, told of by events in the job's folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from openwafer.base import InputError, StallError, WaferError
from openwafer.cli._host import Hosts, Listen, Port, TokenFile, over_hosts
from openwafer.cli._importing import importing
from openwafer.cli._recipe import configure

REQUEST = "train.json"
_JOIN_S = 120.0
"""For hosts whose agents the appliance has started already."""
HOSTS_OPTIONS = ("--hosts", "{hosts}", "--listen", "{listen}", "--port", "{port}", "--token-file", "{token}")
HOST_COMMAND = (
    *("{python}", "-m", "openwafer.cli", "host", "--join", "{listen}:{port}"),
    *("--token-file", "{token}", "--wait", "60"),
)


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe below the request's folder, its arguments, and choices of its cluster that are not the appliance's."""

    recipe: str
    arguments: list[str] = []
    microbatch: str | None = None
    recompute: str | None = None
    shard_vocabulary: str | None = None
    cluster: dict[str, Any] = {}

    def config(self, folder: Path, run_folder: Path | None = None, **cluster: Any) -> Any:
        """The RunConfig. folder: where the recipe lies. Raises InputError."""
        return configure(
            folder / self.recipe,
            self.arguments,
            run_folder,
            self.microbatch,
            self.recompute,
            self.shard_vocabulary,
            **{**self.cluster, **cluster},
        )


def train_job(
    request: Annotated[Path, typer.Argument(help="What `wafer submit` wrote.")],
    systems: Annotated[int, typer.Option()],
    memoryx: Annotated[str, typer.Option()],
    threads: Annotated[int, typer.Option()],
    folder: Annotated[Path, typer.Option()],
    compiled: Annotated[Path | None, typer.Option()] = None,
    compile_only: Annotated[bool, typer.Option()] = False,
    hosts: Hosts = None,
    listen: Listen = None,
    port: Port = None,
    token_file: TokenFile = None,
) -> None:
    """Train a job's recipe, from its last checkpoint if there is one. For the appliance, not for people."""
    try:
        join_s = _JOIN_S if hosts is not None else None
        over = partial(
            over_hosts, hosts=hosts, port=port, listen=listen, token_file=token_file, join_s=join_s
        )
        interrupted = _train(request, systems, memoryx, threads, folder, compiled, compile_only, over)
    except StallError as error:
        if hosts is None:
            _tell("result", status="failed", message=str(error))
            raise
        from openwafer.appliance import TRY_AGAIN

        # Hosts that were lost, or never came: others may be there next time.
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(TRY_AGAIN) from None
    except WaferError as error:
        _tell("result", status="failed", message=str(error))
        raise
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if interrupted:
        raise typer.Exit(130)
    _tell("result", status="succeeded", message="planned" if compile_only else "all steps are done")


def _train(
    request: Path,
    systems: int,
    memoryx: str,
    threads: int,
    folder: Path,
    compiled: Path | None,
    compile_only: bool,
    over: Callable[[Any], Any],
) -> bool:
    with importing():
        from openwafer.cluster.store import Checkpoint, list_checkpoints
        from openwafer.train import SavedPlans, compile_config, fit_config

    try:
        asked = msgspec.json.decode(request.read_bytes(), type=TrainRequest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{request} cannot be read: {error}; `wafer submit` writes it") from None
    cluster = {"systems": systems, "memoryx": memoryx, "threads": threads}
    recipe = request.parent / asked.recipe
    saved = SavedPlans(compiled, recipe, asked.arguments) if compiled is not None else None
    with saved.watching() if saved is not None else nullcontext():
        config = asked.config(request.parent, folder, **{**cluster, **asked.cluster})
    config = replace(config, cluster=over(config.cluster))
    if compile_only:
        if saved is None:
            raise InputError("--compile-only keeps a plan and nothing else; say where with --compiled")
        _tell("state", state="running", message="capturing and planning")
        compile_config(config, saved)
        typer.echo(saved.note or "Planned")
        return False
    checkpoints = list_checkpoints(folder / "checkpoints")
    resume = bool(checkpoints)
    if resume and Checkpoint.open(checkpoints[-1]).step >= config.steps:
        return False  # an earlier start did all steps, and was lost before it could say so
    began = False

    def first_step(done: object) -> None:
        nonlocal began
        if not began:
            began = True
            _tell("state", state="running", message="the first step is done")

    result = fit_config(
        config,
        resume=resume,
        overwrite=not resume,
        callbacks=[first_step],
        console=Console(width=120),
        saved=saved,
    )
    return result.interrupted


def _tell(kind: str, **fields: Any) -> None:
    job = os.environ.get("OPENWAFER_JOB")
    if job is None:
        return
    line = msgspec.json.encode({"at": time.time(), "kind": kind, **fields}) + b"\n"
    fd = os.open(Path(job) / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)
