"""Options of the commands that ask a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

KeyFile = Annotated[
    Path | None,
    typer.Option(help="A file with the key to send; default WAFER_API_KEY.", show_default=False),
]


def client_key(key_file: Path | None) -> str | None:
    """The first key of the file, or the one in the environment; None if there is neither.

    Raises InputError if the file cannot be read, is readable for everybody, or holds no key.
    """
    if key_file is None:
        return os.environ.get("WAFER_API_KEY", "").strip() or None
    # Loads torch, which nobody should wait for who needs no file.
    from openwafer.serve.api import load_keys

    return load_keys(key_file)[0]
