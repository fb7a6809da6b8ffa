"""`wafer host`: lend this machine to a run of another, and the options of `wafer train` that ask for such hosts."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from openwafer.base import InputError

Hosts = Annotated[
    int | None,
    typer.Option(help="Run the systems on so many hosts that join (wafer host).", show_default=False),
]
Port = Annotated[int | None, typer.Option(help="Where hosts join; default 7777.", show_default=False)]
Listen = Annotated[
    str | None,
    typer.Option(help="Address of this machine where hosts join; default 127.0.0.1.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="Secret that all hosts share; default ~/.config/openwafer/token.", show_default=False),
]


def host(
    join: Annotated[str, typer.Option(help="Where the run waits, as HOST:PORT.", show_default=False)],
    token_file: TokenFile = None,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine for other hosts; default the one it joins by.", show_default=False
        ),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to try for while nobody is there.")] = 300.0,
    stay: Annotated[bool, typer.Option(help="Serve run after run, until Ctrl-C.")] = False,
) -> None:
    """Lend this machine to a run: wait for its coordinator, run the systems that it places here."""
    from openwafer.cluster import read_token, serve_host

    address, port = _place(join)
    # How service managers end what they started; as an exception it ends the roles, too.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        serve_host(
            address,
            port,
            read_token(token_file),
            listen_on=listen,
            wait_s=wait,
            stay=stay,
            tell=lambda line: typer.echo(f"| {line}"),
        )
    except KeyboardInterrupt:
        typer.echo("Ended; the run goes on without this host, from its last checkpoint", err=True)
        raise typer.Exit(130) from None


def over_hosts(
    cluster: Any,
    hosts: int | None,
    port: int | None,
    listen: str | None,
    token_file: Path | None,
    join_s: float | None = None,
) -> Any:
    """The recipe's cluster with these options; spread over hosts if `hosts` says so."""
    from openwafer.train import HostsCluster

    given: dict[str, Any] = {
        "hosts": hosts,
        "port": port,
        "listen": listen,
        "token_file": str(token_file) if token_file is not None else None,
        "join_s": join_s,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes or isinstance(cluster, HostsCluster):
        return dataclasses.replace(cluster, **changes)
    if hosts is None:
        option = "--" + next(iter(changes)).replace("_", "-")
        raise InputError(f"{option} is for a run over several hosts; say over how many, with --hosts")
    fields: dict[str, Any] = {
        field.name: getattr(cluster, field.name) for field in dataclasses.fields(cluster)
    }
    return HostsCluster(**fields, **changes)


def _place(join: str) -> tuple[str, int]:
    address, _, port = join.rpartition(":")
    if not address or not port.isdigit():
        raise InputError(f"--join {join!r} names no place; write HOST:PORT, for example 10.0.0.1:7777")
    return address.strip("[]"), int(port)
