"""`wafer jobs` and `wafer job ...`: look at jobs of the appliance, and change them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from openwafer.base import InputError, format_bytes
from openwafer.cli._contact import Certificate, Cluster, TokenFile, client_of, labels_of

if TYPE_CHECKING:
    from openwafer.appliance import Job
    from openwafer.appliance.client import Client

job = typer.Typer(help="Look at a job of the appliance, and change it.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="The job's id, as `wafer jobs` shows it.", show_default=False)]
_LIVE = ("created", "queued", "scheduled", "initializing", "running")


def jobs(
    all_states: Annotated[bool, typer.Option("--all", "-a", help="Jobs that have ended, too.")] = False,
    state: Annotated[
        list[str] | None, typer.Option(help="Only these; may be repeated.", show_default=False)
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.", show_default=False)] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only with name=value; may be repeated.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with everything that is known.")] = False,
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """List jobs, newest first."""
    with client_of(cluster, token_file, certificate) as client:
        states = tuple(state or ()) or (() if all_states else _LIVE)
        found = client.jobs(states=states, user=user, labels=tuple(label or ()), limit=limit)
    if json:
        _print_json(found)
        return
    if not found:
        typer.echo("no jobs" if all_states else "no jobs that have not ended; --all shows the others")
        return
    table = Table(box=None, pad_edge=False)
    for title in (
        "ID",
        "NAME",
        "TYPE",
        "STATE",
        "PRIORITY",
        "AGE",
        "DURATION",
        "SYSTEMS",
        "USER",
        "LABELS",
        "REASON",
    ):
        table.add_column(title, overflow="fold", no_wrap=title in ("ID", "STATE"))
    now = time.time()
    for found_job in found:
        table.add_row(*_row(found_job, now))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)


def _row(job: Job, now: float) -> tuple[str, ...]:
    ran = None if job.started is None else (job.ended or now) - job.started
    return (
        job.id,
        job.spec.name,
        job.spec.kind,
        job.state,
        f"p{job.priority // 100} {job.priority}",
        duration(now - job.created),
        "" if ran is None else duration(ran),
        str(len(job.systems) or job.spec.systems),
        job.user,
        " ".join(f"{name}={value}" for name, value in sorted(job.labels.items())),
        job.waits_for or job.reason,
    )


@job.command("show")
def show(
    id: Id,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with everything that is known.")] = False,
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Show what is known of a job."""
    with client_of(cluster, token_file, certificate) as client:
        found = client.job(id)
    if json:
        _print_json(found)
        return
    now = time.time()
    spec = found.spec
    rows = {
        "job": f"{found.id} {spec.name}",
        "state": f"{found.state}: {found.reason}",
        "waits for": found.waits_for,
        "user": found.user,
        "priority": f"p{found.priority // 100} ({found.priority})",
        "labels": " ".join(f"{name}={value}" for name, value in sorted(found.labels.items())),
        "workflow": found.workflow or "",
        "systems": ", ".join(found.systems) if found.systems else str(spec.systems),
        "MemoryX": format_bytes(spec.memoryx_bytes) if spec.memoryx_bytes else "",
        "submitted": f"{_clock(found.created)}, {duration(now - found.created)} ago",
        "started": "" if found.started is None else f"{_clock(found.started)}, {found.starts} times in all",
        "ended": ""
        if found.ended is None
        else f"{_clock(found.ended)} after {duration(found.duration_s or 0)}",
        "checkpoint": found.checkpoint,
        "exit status": "" if found.exit_status is None else str(found.exit_status),
    }
    for name, value in rows.items():
        if value:
            typer.echo(f"{name:<12} {value}")


@job.command("logs")
def logs(
    id: Id,
    follow_log: Annotated[bool, typer.Option("--follow", "-f", help="Until the job has ended.")] = False,
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Show a job's log. With --follow the exit status is 0 only if the job succeeded."""
    with client_of(cluster, token_file, certificate) as client:
        if follow_log:
            follow(client, id)
            return
        for piece in client.log(id):
            _write(piece)


def follow(client: Client, id: str) -> None:
    """Show a log until its job has ended. Raises typer.Exit with status 1 if it did not succeed."""
    for piece in client.follow_log(id):
        _write(piece)
    ended = client.job(id)
    if ended.state != "succeeded":
        raise typer.Exit(1)


@job.command("cancel")
def cancel(
    ids: Annotated[list[str], typer.Argument(help="Jobs' ids, or name=value for all with this label.")],
    reason: Annotated[str, typer.Option(help="For the job's record.", show_default=False)] = "",
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """End jobs. One that runs may still write a checkpoint; asking again ends it at once."""
    with client_of(cluster, token_file, certificate) as client:
        for word in ids:
            named = (
                [found.id for found in client.jobs(states=_LIVE, labels=[word], limit=10_000)]
                if "=" in word
                else [word]
            )
            if not named:
                raise InputError(f"no job that has not ended has the label {word}")
            for id in named:
                told = client.cancel(id, reason=reason)
                typer.echo(f"{told.id} {told.state}: {told.reason}")


@job.command("label")
def label(
    id: Id,
    labels: Annotated[list[str], typer.Argument(help="name=value to set, name- to remove.")],
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Set a job's labels, or remove them."""
    with client_of(cluster, token_file, certificate) as client:
        told = client.label(id, labels_of(labels))
    typer.echo(f"{told.id} {' '.join(f'{name}={value}' for name, value in sorted(told.labels.items()))}")


@job.command("priority")
def priority(
    id: Id,
    value: Annotated[str, typer.Argument(help="p1, p2 or p3 (p0 for administrators), or a number.")],
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Give a job another place in the queue: lower numbers go first."""
    from openwafer.appliance import parse_priority

    with client_of(cluster, token_file, certificate) as client:
        told = client.prioritise(id, parse_priority(value))
    typer.echo(f"{told.id} p{told.priority // 100} {told.priority}")


@job.command("export")
def export(
    id: Id,
    file: Annotated[
        Path | None, typer.Option("--to", help="The archive; default <id>.tar.gz.", show_default=False)
    ] = None,
    checkpoints: Annotated[bool, typer.Option(help="With the run's checkpoints.")] = False,
    cluster: Cluster = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Write log, events, metrics, plan, pictures and record of a job into one archive."""
    target = file or Path(f"{id}.tar.gz")
    with client_of(cluster, token_file, certificate) as client:
        size = client.export(id, target, checkpoints=checkpoints)
    typer.echo(f"{target}: {format_bytes(size)}")


def duration(seconds: float) -> str:
    """Short: `12s`, `3m05s`, `2h10m`, `4d03h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_json(value: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
