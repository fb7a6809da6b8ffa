"""Options of the commands that ask an appliance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openwafer.base import InputError

if TYPE_CHECKING:
    from openwafer.appliance.client import Client

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="The appliance's URL; default WAFER_CLUSTER, or the one that is up.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="A file with your token; default WAFER_CLUSTER_TOKEN.", show_default=False),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate", help="A PEM file to trust, if no public authority signed.", show_default=False
    ),
]


def client_of(cluster: str | None, token_file: Path | None, certificate: Path | None) -> Client:
    """A client for the appliance that is meant. Raises InputError if none is known."""
    from openwafer.appliance.client import Client, Contact

    return Client(Contact.find(cluster, token_file, certificate))


def labels_of(words: list[str] | None) -> dict[str, str | None]:
    """`name=value` words; `name-` takes the label away. Raises InputError."""
    labels: dict[str, str | None] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if equals and name:
            labels[name] = value
        elif word.endswith("-") and len(word) > 1:
            labels[word[:-1]] = None
        else:
            raise InputError(f"{word!r} is no label; write name=value, or name- to remove one")
    return labels
