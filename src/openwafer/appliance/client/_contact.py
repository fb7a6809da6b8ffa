"""Where an appliance is and with which token: from options, the environment, or the file that it leaves for its user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from openwafer.appliance._folder import write_whole
from openwafer.base import InputError

URL_VARIABLE = "WAFER_CLUSTER"
TOKEN_VARIABLE = "WAFER_CLUSTER_TOKEN"


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to ask an appliance."""

    url: str
    token: str
    certificate: str | None = None
    """A PEM file to trust, for a certificate that no public authority signed."""

    @classmethod
    def find(
        cls,
        url: str | None = None,
        token_file: Path | None = None,
        certificate: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """Options first, then WAFER_CLUSTER and WAFER_CLUSTER_TOKEN, then the file. Raises InputError if nothing says where."""
        url = url or environment.get(URL_VARIABLE)
        left = cls.left(environment)
        if url is None:
            if left is None:
                raise InputError(
                    "no cluster is known: bring one up with `wafer cluster up`, or say where it is with --cluster URL or "
                    f"{URL_VARIABLE}"
                )
            url = left.url
        is_left = left is not None and url.rstrip("/") == left.url
        token = environment.get(TOKEN_VARIABLE)
        if token_file is not None:
            token = _read_token(token_file)
        elif token is None and is_left and left is not None:
            token = left.token
        if not token:
            raise InputError(
                f"no token for {url} is known: give --token-file, or set {TOKEN_VARIABLE}; whoever runs the appliance makes one "
                "with `wafer cluster user add NAME`"
            )
        trusted = (
            str(certificate) if certificate else left.certificate if left is not None and is_left else None
        )
        return cls(url=url.rstrip("/"), token=token, certificate=trusted)

    @classmethod
    def left(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """What the appliance of this user left last; None if there is none up."""
        try:
            data = contact_file(environment).read_bytes()
        except OSError:
            return None
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise InputError(
                f"{contact_file(environment)} makes no sense ({error}); remove it, and say --cluster URL --token-file FILE"
            ) from None

    def leave(self, environment: Mapping[str, str] = os.environ) -> Path:
        """Write the file for this user's other commands; nobody else may read it. Raises StorageError."""
        file = contact_file(environment)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, msgspec.json.encode(self), mode=0o600)
        return file

    def remove(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the file away again, if it is still this one."""
        with suppress(OSError, InputError):
            if self.left(environment) == self:
                contact_file(environment).unlink()


def contact_file(environment: Mapping[str, str] = os.environ) -> Path:
    """`cluster.json` in the user's configuration folder."""
    base = environment.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(base) / "openwafer" / "cluster.json"


def _read_token(file: Path) -> str:
    try:
        mode, token = file.stat().st_mode, file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the token file {file} cannot be read: {error}; give the file with your token"
        ) from None
    if mode & 0o077:
        raise InputError(f"the token file {file} is open to others; run: chmod 600 {file}")
    return token
