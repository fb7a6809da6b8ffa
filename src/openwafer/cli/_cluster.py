"""`wafer cluster up|down|status|user|system`: run an appliance, and ask how it is."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from openwafer.base import InputError, format_bytes, parse_bytes
from openwafer.cli._contact import Certificate, TokenFile, client_of
from openwafer.cli._contact import Cluster as Url

if TYPE_CHECKING:
    from openwafer.appliance import Engine, ManagementNode
    from openwafer.appliance._users import Users
    from openwafer.compat.appliance import ClientDoor

cluster = typer.Typer(help="A cluster that many jobs share.", no_args_is_help=True)
user = typer.Typer(help="Who may use the appliance of a state folder.", no_args_is_help=True)
cluster.add_typer(user, name="user")
Folder = Annotated[
    Path | None,
    typer.Option(help="State: jobs, logs, users; default ~/.local/state/openwafer.", show_default=False),
]


@cluster.command("up")
def up(
    systems: Annotated[
        int | None,
        typer.Option(
            help="Compute systems to share; default 1, or as many as a Ray cluster offers.",
            show_default=False,
        ),
    ] = None,
    folder: Folder = None,
    memoryx: Annotated[str, typer.Option(help="ram, disk:/path, or disk:/path,/on/another/disk.")] = "ram",
    memoryx_bytes: Annotated[
        str | None,
        typer.Option(
            help="What jobs may take there in all; default most of what is free.", show_default=False
        ),
    ] = None,
    compile_slots: Annotated[int, typer.Option(help="Compile jobs at a time.")] = 1,
    volume: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that jobs may mount; may be repeated; default any.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="URL of the job store; default SQLite in the folder.", show_default=False),
    ] = None,
    grace_seconds: Annotated[
        float, typer.Option(help="For a job that is ended to write a checkpoint.")
    ] = 60.0,
    engine: Annotated[
        str, typer.Option(help="local: this machine; ray: the machines of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Of the Ray cluster; auto: the one that this machine is in.")
    ] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")] = 8470,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM; needed beyond this machine.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.", show_default=False)] = None,
    client_port: Annotated[
        int | None,
        typer.Option(
            help="Port on 127.0.0.1 for the vendor's training client; default 9000, or any.",
            show_default=False,
        ),
    ] = None,
    client_python: Annotated[
        Path | None,
        typer.Option(help="Interpreter of its input workers; default the client's own.", show_default=False),
    ] = None,
) -> None:
    """Bring an appliance up, and stay. Ctrl-C ends the node alone: jobs run on, and the next node takes them over."""
    from openwafer.appliance import ManagementNode, NodeConfig
    from openwafer.appliance._users import Users
    from openwafer.appliance.client import Contact
    from openwafer.appliance.web import Listen, Service

    state = _state_folder(folder)
    if engine not in ("local", "ray"):
        raise InputError(f"there is no engine {engine!r}; give local or ray")
    make_config = partial(
        NodeConfig,
        folder=state,
        compile_slots=compile_slots,
        memoryx=memoryx,
        memoryx_bytes=None if memoryx_bytes is None else parse_bytes(memoryx_bytes),
        store=store,
        volumes=tuple(path.expanduser().resolve() for path in volume or ()),
        grace_s=grace_seconds,
    )
    listen = Listen(host=host, port=port, certificate=certificate, key=key)
    with ExitStack() as stack:
        runs_jobs: Engine | None = None
        unguarded = False
        if engine == "ray":
            from openwafer.appliance.ray import RayEngine

            over_hosts = runs_jobs = stack.enter_context(RayEngine(state, address, systems))
            systems = systems or over_hosts.systems()
            unguarded = not over_hosts.asks_for_token
        node = stack.enter_context(ManagementNode(make_config(systems=systems or 1), runs_jobs))
        users = Users(state / "users.json")
        token_file = state / "token"
        token = _own_token(users, token_file)
        service = Service(node, users, listen, importlib.metadata.version("openwafer"))
        door = _client_door(node, users, client_port, client_python)
        if door is not None:
            stack.enter_context(door)
        contact = Contact(
            url=service.url, token=token, certificate=str(certificate.resolve()) if certificate else None
        )

        def ready() -> None:
            contact.leave()
            running = [job for job in node.queue() if job.state not in ("created", "queued")]
            amounts, _ = node.amounts()
            _say(
                f"{amounts.systems} systems, {format_bytes(amounts.memoryx_bytes)} of MemoryX memory in {memoryx}"
            )
            if node.hosts():
                told = (_host_words(*host[:3], len(host.jobs)) for host in node.hosts())
                _say(f"on hosts of a Ray cluster: {', '.join(told)}")
            if unguarded:
                _say(
                    "this Ray cluster asks for no token: whoever reaches its ports can run programs on its machines; start "
                    "it with RAY_AUTH_MODE=token (docs/appliance.md)"
                )
            if node.queue():
                _say(
                    f"taken over: {len(running)} jobs that run, {len(node.queue()) - len(running)} that wait"
                )
            if door is None:
                _say(
                    "the vendor's training client is not served: its messages are not installed (docs/client.md)"
                )
            else:
                _say(f"for the vendor's training client: mgmt_address={door.address!r}")
            _say(f"serving at {service.url}; your token is in {token_file}")

        try:
            status = service.run(ready, _say)
        finally:
            contact.remove()
        left = [job.id for job in node.queue() if job.state not in ("created", "queued")]
    if left:
        _say(
            f"ended; {len(left)} jobs run on. `wafer cluster up --folder {state}` takes them over, "
            f"`wafer cluster down --folder {state}` ends them"
        )
    else:
        _say("ended")
    raise typer.Exit(status)


@cluster.command("client-token")
def print_client_token(url: Url = None, token_file: TokenFile = None) -> None:
    """Print what the vendor's training client takes as CSAUTH_TOKEN, for an account that is not the appliance's own."""
    from openwafer.appliance.client import Contact
    from openwafer.compat.appliance import client_token

    typer.echo(client_token(Contact.find(url, token_file, None).token))


@cluster.command("down")
def down(
    folder: Annotated[
        Path | None, typer.Option(help="Of an appliance whose node has ended already.", show_default=False)
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """End an appliance: running jobs are interrupted, with a checkpoint, and go on when it is up again."""
    if folder is None:
        with client_of(url, token_file, certificate) as client:
            client.down()
        typer.echo("going down")
        return
    from openwafer.appliance import ManagementNode, NodeConfig

    with ManagementNode(NodeConfig(folder=_state_folder(folder)), paused=True) as node:
        left = node.drain()
    if left:
        raise InputError(f"{len(left)} jobs did not end: {', '.join(job.id for job in left)}")
    typer.echo("nothing runs any more")


@cluster.command("status")
def status(url: Url = None, token_file: TokenFile = None, certificate: Certificate = None) -> None:
    """Show what the cluster has, and who has it."""
    with client_of(url, token_file, certificate) as client:
        told = client.cluster()
        where = client.url
    typer.echo(f"{where}, openwafer {told.version}, as {told.user}{' (administrator)' if told.admin else ''}")
    table = Table(box=None, pad_edge=False)
    for title in ("RESOURCE", "IN SERVICE", "FREE"):
        table.add_column(title)
    for resource in told.resources:
        shown = format_bytes if "memory" in resource.name else str
        table.add_row(resource.name, shown(resource.total), shown(resource.free))
    for system in told.systems:
        what = f"out of service: {system.out_of_service}" if system.out_of_service else ""
        table.add_row(system.name, what, f"has {system.job}" if system.job else "" if what else "free")
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)
    for host in told.hosts:
        typer.echo(f"host {_host_words(host.name, host.address, host.systems, host.jobs)}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(told.states.items()))
    typer.echo(f"jobs: {states or 'none'}")


@cluster.command("system")
def system(
    name: Annotated[str, typer.Argument(help="The system, for example system-1.", show_default=False)],
    out: Annotated[
        str | None, typer.Option(help="Take it out of service, for this reason.", show_default=False)
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    certificate: Certificate = None,
) -> None:
    """Put a system into service, or out of it; a job that has it goes on."""
    with client_of(url, token_file, certificate) as client:
        client.system(name, in_service=out is None, reason=out or "")
    typer.echo(f"{name} is {'in service' if out is None else 'out of service: ' + out}")


@user.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The user's name.", show_default=False)],
    admin: Annotated[bool, typer.Option(help="May see and change everybody's jobs.")] = False,
    volume: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder that this user's jobs may mount, instead of the cluster's.", show_default=False
        ),
    ] = None,
    folder: Folder = None,
) -> None:
    """Make a user, or a new token for one; prints the token, which is kept nowhere."""
    from openwafer.appliance._users import Users

    own = [path.expanduser().absolute() for path in volume or ()]
    typer.echo(Users(_state_folder(folder) / "users.json").add(name, admin=admin, volumes=own))


@user.command("remove")
def remove_user(
    name: Annotated[str, typer.Argument(help="The user's name.", show_default=False)], folder: Folder = None
) -> None:
    """Let a user in no more; jobs stay."""
    from openwafer.appliance._users import Users

    Users(_state_folder(folder) / "users.json").remove(name)
    typer.echo(f"{name} is no user any more")


def _host_words(name: str, address: str, systems: int, jobs: int) -> str:
    told = f", {jobs} job{'s' if jobs != 1 else ''}" if jobs else ""
    return f"{name} ({address}): {systems} system{'s' if systems != 1 else ''}{told}"


def _client_door(
    node: ManagementNode, users: Users, port: int | None, python: Path | None
) -> ClientDoor | None:
    """The server for the vendor's training client; None where the messages that it speaks are not installed."""
    from openwafer.compat.appliance import PORT, Caller, ClientDoor, wheel

    try:
        wheel()
    except InputError:
        if port is not None:
            raise
        return None

    def who_is(token: str) -> Caller | None:
        found = users.who(token)
        return Caller(found.name, found.admin, found.volumes) if found is not None else None

    chosen = str(python.expanduser().absolute()) if python is not None else ""
    try:
        return ClientDoor(node, who_is, PORT if port is None else port, client_python=chosen)
    except InputError:
        if port is not None:
            raise
        return ClientDoor(node, who_is, 0, client_python=chosen)


def _own_token(users: object, file: Path) -> str:
    """The token of whoever runs the appliance: an administrator, with the token in a file of the state folder."""
    from openwafer.appliance._folder import write_whole
    from openwafer.appliance._users import Users

    assert isinstance(users, Users)
    if file.exists():
        token = file.read_text().strip()
        if users.who(token) is not None:
            return token
    token = users.add(getpass.getuser(), admin=True)
    write_whole(file, token.encode() + b"\n", mode=0o600)
    return token


def _state_folder(folder: Path | None) -> Path:
    if folder is not None:
        return folder.expanduser().resolve()
    base = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(base) / "openwafer"


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()
