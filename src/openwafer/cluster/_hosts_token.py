"""The secret that the hosts of a cluster share, in a file that only its owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from openwafer.base import InputError

DEFAULT_FILE = "~/.config/openwafer/token"
LEAST_BYTES = 16


def read_token(file: str | Path | None = None, *, make: bool = False) -> bytes:
    """The token in a file, without the white space around it; None: in `~/.config/openwafer/token`.

    make: if there is no file, write one with a new token first, as a coordinator does; hosts need a copy of it.
    Raises InputError if the file is missing, can be read by others, or holds less than 16 bytes.
    """
    path = Path(file if file is not None else DEFAULT_FILE).expanduser()
    if make and not path.exists():
        _write(path)
    try:
        mode = path.stat().st_mode
        token = path.read_bytes().strip()
    except OSError as error:
        raise InputError(
            f"the token file {path} cannot be read: {error.strerror or error}; copy it from the host where `wafer train "
            "--hosts` runs, which makes it, or name another (--token-file)"
        ) from error
    if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(f"the token file {path} can be read or written by others; run: chmod 600 {path}")
    if len(token) < LEAST_BYTES:
        raise InputError(
            f"the token file {path} holds {len(token)} bytes, and a token needs at least {LEAST_BYTES}; delete the file and "
            "let `wafer train --hosts` make a new one"
        )
    return token


def _write(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        return  # another run made it a moment ago
    except OSError as error:
        raise InputError(
            f"the token file {path} cannot be written: {error.strerror or error}; name another (--token-file)"
        ) from error
